/**
 * A command in a container: the client's stream on one side, the agent's frames over core NATS on the other. Output is
 * sent against credits, so a client that reads slowly slows the command down instead of filling memory.
 */
import type { NatsConnection } from "@nats-io/transport-node";
import { ExecFrame, ExecOpen, ExecOpened, type ExecExit } from "../../../proto/gen/godwit/v1/agent.ts";
import type { ExecRequest, ExecResponse, ExecStart } from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import { execSubject } from "../../../proto/contract/subjects.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { findContainer } from "../find.ts";
import { waitFor } from "../follow.ts";
import { askAgent } from "./agent-request.ts";
import { AgentInput } from "./exec-input.ts";
import { Inbox } from "./inbox.ts";
import { isMigrating, lossOf, placeOf, runningPlace, type Place } from "./whereabouts.ts";

/** Output under way to a client at most. */
const WINDOW_BYTES = 2 ** 20;
/** Credit goes back in pieces of this size, not byte by byte. */
const TOP_UP_BYTES = WINDOW_BYTES / 8;
/** An agent that sends more than its credit is at fault; this much is forgiven. */
const MAX_QUEUED_BYTES = 4 * WINDOW_BYTES;
/** How long a container on its way to another node is waited for. */
const MOVE_TIMEOUT_MS = 30_000;
const PROBE_MS = 5_000;
/** The runtime could not start it (125), it cannot be executed (126), there is no such program (127). */
const NEVER_RAN: ReadonlySet<number> = new Set([125, 126, 127]);
const ADVICE = "run the command again";

export async function* runExec(
  scheduler: Scheduler,
  connection: NatsConnection,
  requests: AsyncIterable<ExecRequest>,
  signal: AbortSignal,
): AsyncGenerator<ExecResponse> {
  const parts = requests[Symbol.asyncIterator]();
  const first = await parts.next();
  if (first.done === true || first.value.part?.$case !== "start") {
    throw new GodwitError("invalid", "the first message of an exec must say what to start");
  }
  const start = first.value.part.value;
  if (start.command.length === 0)
    throw new GodwitError("invalid", "there is no command to run; give one after --");
  const { id } = findContainer(scheduler.state(), start.nameOrId);

  using inbox = new Inbox(connection, MAX_QUEUED_BYTES);
  const { place, inputSubject } = await openSession(scheduler, connection, id, start, inbox.subject, signal);
  const over = new AbortController();
  const input = new AgentInput(connection, inputSubject);
  const loss: { error?: GodwitError } = {};
  const lose = (error: GodwitError): void => {
    loss.error ??= error;
    over.abort();
  };
  void watchPlace(scheduler, id, place, AbortSignal.any([signal, over.signal]), lose);
  void probe(input, place, over.signal, lose);
  void input.relay(parts, start.stdin, over.signal).catch((error: unknown) => lose(GodwitError.from(error)));
  let exited = false;
  let complained = false;
  try {
    input.credit(WINDOW_BYTES);
    const waiting = AbortSignal.any([signal, over.signal]);
    let expected: number | undefined;
    let taken = 0;
    for (;;) {
      const message = await inbox.next(waiting);
      if (message === undefined) {
        if (signal.aborted) throw GodwitError.from(signal.reason, "cancelled");
        throw (
          loss.error ??
          new GodwitError(
            "unavailable",
            `the output of the command came faster than agreed and was lost; ${ADVICE}`,
          )
        );
      }
      const { sequence, frame } = ExecFrame.decode(message.data);
      // Agents count from 0; a message that a reconnect brought twice is dropped.
      expected ??= Math.min(sequence, 1);
      if (sequence < expected) continue;
      if (sequence > expected)
        throw new GodwitError(
          "unavailable",
          `a part of the command's output was lost on its way from ${place.node}; ${ADVICE}`,
        );
      expected += 1;
      switch (frame?.$case) {
        case "stdout":
        case "stderr":
          complained ||= frame.$case === "stderr";
          yield { part: { $case: frame.$case, value: frame.value } };
          taken += frame.value.length;
          if (taken >= TOP_UP_BYTES) {
            input.credit(taken);
            taken = 0;
          }
          break;
        case "credit":
          input.granted(frame.value);
          break;
        case "exit":
          exited = true;
          if (NEVER_RAN.has(frame.value.code) && frame.value.error !== "") {
            // The runtime may have said so on the command's own standard error already.
            if (!complained)
              yield { part: { $case: "stderr", value: Buffer.from(`godwit: ${frame.value.error}\n`) } };
            yield { part: { $case: "exitCode", value: frame.value.code } };
            return;
          }
          await checkExit(scheduler, id, place, frame.value, signal);
          yield { part: { $case: "exitCode", value: frame.value.code } };
          return;
        default:
          break; // frames that only go the other way
      }
    }
  } finally {
    over.abort();
    // The client went away or the session broke: the command must not run on unwatched.
    if (!exited) input.kill();
  }
}

async function openSession(
  scheduler: Scheduler,
  connection: NatsConnection,
  id: string,
  start: ExecStart,
  outputSubject: string,
  signal: AbortSignal,
): Promise<{ place: Place; inputSubject: string }> {
  const { command, tty, stdin, env, user, workingDir, rows, columns } = start;
  const open = ExecOpen.encode({
    containerId: id,
    command,
    tty,
    stdin,
    env,
    user,
    workingDir,
    rows,
    columns,
    outputSubject,
  }).finish();
  const giveUpAtMs = performance.now() + MOVE_TIMEOUT_MS;
  for (;;) {
    const place = await runningPlace(
      scheduler,
      id,
      Math.max(1, Math.round(giveUpAtMs - performance.now())),
      signal,
    );
    let failure: GodwitError;
    try {
      const opened = ExecOpened.decode(await askAgent(connection, execSubject(place.node), place.node, open));
      if (opened.error === "") return { place, inputSubject: opened.inputSubject };
      failure = new GodwitError(
        "unavailable",
        `the command could not be started on ${place.node}: ${opened.error}`,
      );
    } catch (error) {
      failure = GodwitError.from(error);
    }
    // A move that began meanwhile explains the failure; the container is then waited for again.
    const left = isMigrating(scheduler, id) || placeOf(scheduler, id)?.node !== place.node;
    if (!left || performance.now() >= giveUpAtMs || signal.aborted) throw failure;
  }
}

/** Calls `lose` when the container is no longer where the session is. */
async function watchPlace(
  scheduler: Scheduler,
  id: string,
  place: Place,
  signal: AbortSignal,
  lose: (error: GodwitError) => void,
): Promise<void> {
  for await (const _ of scheduler.changes(signal)) {
    const error = lossOf(scheduler, id, place, ADVICE);
    if (error !== undefined) {
      lose(error);
      return;
    }
  }
}

/** Calls `lose` when nobody listens to the session's input any more: its agent was killed or forgot it. */
async function probe(
  input: AgentInput,
  place: Place,
  over: AbortSignal,
  lose: (error: GodwitError) => void,
): Promise<void> {
  // One miss may be an agent that is just reconnecting to NATS.
  for (let missed = 0; !over.aborted;) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, PROBE_MS);
    const wake = (): void => resolve();
    over.addEventListener("abort", wake, { once: true });
    await promise;
    clearTimeout(timer);
    over.removeEventListener("abort", wake);
    if (over.aborted) return;
    missed = (await input.isHeard()) ? 0 : missed + 1;
    if (missed === 3)
      lose(new GodwitError("unavailable", `the agent of ${place.node} ended the session; ${ADVICE}`));
  }
}

/** Throws when the command did not come to its own end. */
async function checkExit(
  scheduler: Scheduler,
  id: string,
  place: Place,
  exit: ExecExit,
  signal: AbortSignal,
): Promise<void> {
  // A freeze kills what was started from outside; a SIGKILL during a move is most likely that.
  const suspicious = exit.error !== "" || exit.code === 137;
  if (!suspicious) return;
  const wasMoving = isMigrating(scheduler, id);
  if (wasMoving) {
    const what = (): string =>
      `the container is being moved and the session ended; ${ADVICE} when 'godwit ps' shows it running`;
    await waitFor(scheduler, signal, MOVE_TIMEOUT_MS, what, () =>
      isMigrating(scheduler, id) ? undefined : true,
    );
  }
  const loss = lossOf(scheduler, id, place, ADVICE);
  if (loss !== undefined) throw loss;
  if (wasMoving)
    throw new GodwitError(
      "unavailable",
      `a move of the container was tried and ended the session; ${ADVICE}`,
    );
  if (exit.error !== "")
    throw new GodwitError("unavailable", `the command failed on ${place.node}: ${exit.error}`);
}
