/**
 * A container's log, read at the node that has it. The log goes with the container, so after a move it is read on at
 * the new node from the byte where it stopped: nothing is lost and nothing comes twice.
 */
import type { NatsConnection } from "@nats-io/transport-node";
import { LogChunk, LogsOpen, LogsOpened } from "../../../proto/gen/godwit/v1/agent.ts";
import type { LogsRequest, LogsResponse } from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import { logsSubject } from "../../../proto/contract/subjects.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { findContainer } from "../find.ts";
import { waitFor } from "../follow.ts";
import { askAgent } from "./agent-request.ts";
import { Inbox } from "./inbox.ts";
import { LogLines, type Piece } from "./log-lines.ts";
import { isMigrating, placeOf, type Place } from "./whereabouts.ts";

/** A client that reads more slowly than its log arrives: above this, the session is ended and begun again later. */
const MAX_QUEUED_BYTES = 8 * 2 ** 20;
/** A silent session is opened anew this often: core NATS may lose a message, and an agent may have been replaced. */
const REOPEN_MS = 20_000;
const MOVE_TIMEOUT_MS = 120_000;
/** How long a followed log outlives its agent, which systemd or the operator starts again. */
const AGENT_ABSENCE_MS = 60_000;
/** And one that is only read. */
const AGENT_PAUSE_MS = 5_000;
/** A session that lived this long was sound: what ended it is new. */
const SOUND_MS = 10_000;
const RETRY_MS = 500;

type Ending =
  { readonly kind: "over" } | { readonly kind: "reopen"; readonly gap: boolean } | { readonly kind: "moved" };

export async function* readLogs(
  scheduler: Scheduler,
  connection: NatsConnection,
  request: LogsRequest,
  signal: AbortSignal,
): AsyncGenerator<LogsResponse> {
  const container = findContainer(scheduler.state(), request.nameOrId);
  const session = new LogSession(
    scheduler,
    connection,
    container.id,
    container.spec?.name ?? container.id,
    request,
  );
  for await (const { stream, bytes, nextOffset } of session.pieces(signal)) {
    const empty = Buffer.alloc(0);
    const text = stream === "o" ? { stdout: bytes, stderr: empty } : { stdout: empty, stderr: bytes };
    yield nextOffset === undefined ? text : { ...text, nextOffset };
  }
}

interface Told extends Piece {
  /** With this piece all is told up to there. */
  readonly nextOffset?: number;
}

class LogSession {
  readonly #scheduler: Scheduler;
  readonly #connection: NatsConnection;
  readonly #id: string;
  readonly #name: string;
  readonly #request: LogsRequest;
  readonly #lines: LogLines;
  /** Offset of the next byte in the container's whole log; undefined until the first chunk. */
  #next: number | undefined;
  /** The last session ended at a hole; if the next one begins behind it too, the bytes are really gone. */
  #gapSeen = false;
  #absentSinceMs: number | undefined;

  constructor(
    scheduler: Scheduler,
    connection: NatsConnection,
    id: string,
    name: string,
    request: LogsRequest,
  ) {
    this.#scheduler = scheduler;
    this.#connection = connection;
    this.#id = id;
    this.#name = name;
    this.#request = request;
    this.#lines = new LogLines(request.timestamps);
    this.#next = request.fromOffset;
  }

  async *pieces(signal: AbortSignal): AsyncGenerator<Told> {
    while (!signal.aborted) {
      const place = await this.#place(signal);
      if (place === undefined) return;
      let ending: Ending;
      const beganAtMs = performance.now();
      try {
        ending = yield* this.#session(place, signal);
        this.#absentSinceMs = undefined;
      } catch (error) {
        if (performance.now() - beganAtMs > SOUND_MS) this.#absentSinceMs = undefined;
        await this.#mayRetry(GodwitError.from(error), place, signal);
        continue;
      }
      if (ending.kind === "over") return;
      this.#gapSeen = ending.kind === "reopen" && ending.gap;
      if (ending.kind === "moved") await this.#settled(place, signal);
    }
  }

  /** Undefined: the container is gone, or was never anywhere and nobody wants to wait. */
  async #place(signal: AbortSignal): Promise<Place | undefined> {
    const place = placeOf(this.#scheduler, this.#id);
    if (place !== undefined || !this.#request.follow) return place;
    return waitFor(
      this.#scheduler,
      signal,
      2 ** 31 - 1,
      () => `the container ${this.#name} was not placed`,
      () => (this.#exists() ? placeOf(this.#scheduler, this.#id) : ("gone" as const)),
    ).then((found) => (found === "gone" ? undefined : found));
  }

  /** One opened session at one node, to its end. */
  async *#session(place: Place, signal: AbortSignal): AsyncGenerator<Told, Ending> {
    using inbox = new Inbox(this.#connection, MAX_QUEUED_BYTES);
    const open = LogsOpen.fromPartial({
      containerId: this.#id,
      follow: this.#request.follow,
      tail: this.#next === undefined ? this.#request.tail : -1,
      outputSubject: inbox.subject,
      fromOffset: this.#next ?? 0,
    });
    const answer = await askAgent(
      this.#connection,
      logsSubject(place.node),
      place.node,
      LogsOpen.encode(open).finish(),
    );
    const { error, stopSubject } = LogsOpened.decode(answer);
    if (error !== "")
      throw new GodwitError(
        "unavailable",
        `the log of ${this.#name} cannot be read on ${place.node}: ${error}`,
      );
    const left = new AbortController();
    void this.#leaves(place, AbortSignal.any([signal, left.signal])).then(() => left.abort());
    const silence = new AbortController();
    const timer = setTimeout(() => silence.abort(), REOPEN_MS);
    const waiting = AbortSignal.any([signal, left.signal, silence.signal]);
    let ended = false;
    try {
      for (;;) {
        // With "tail 0" and nothing read yet, a new session would skip what is written between the two.
        if (this.#next === undefined && this.#request.tail === 0) clearTimeout(timer);
        else timer.refresh();
        const message = await inbox.next(waiting);
        if (message === undefined) {
          if (signal.aborted) return { kind: "over" };
          if (left.signal.aborted) return { kind: "moved" };
          return { kind: "reopen", gap: false };
        }
        const chunk = LogChunk.decode(message.data);
        const hole = this.#next !== undefined && chunk.offset > this.#next && chunk.data.length > 0;
        if (hole && !this.#gapSeen) return { kind: "reopen", gap: true };
        this.#gapSeen = false;
        yield* this.#take(chunk, hole);
        if (!chunk.end) continue;
        ended = true;
        if (chunk.reason === "moved") return { kind: "moved" };
        if (chunk.reason === "done" || chunk.reason === "removed") return { kind: "over" };
        throw new GodwitError(
          "unavailable",
          `the log of ${this.#name} broke off on ${place.node}: ${chunk.reason}`,
        );
      }
    } finally {
      clearTimeout(timer);
      left.abort();
      if (!ended && stopSubject !== "") this.#connection.publish(stopSubject);
    }
  }

  *#take(chunk: LogChunk, hole: boolean): Generator<Told> {
    if (hole) this.#lines.reset();
    const known = Math.max(0, (this.#next ?? chunk.offset) - chunk.offset);
    const data = chunk.data.subarray(known);
    this.#next = Math.max(this.#next ?? 0, chunk.offset + chunk.data.length);
    if (data.length === 0) return;
    const pieces = this.#lines.push(data);
    const last = pieces.pop();
    yield* pieces;
    if (last === undefined) return;
    yield this.#lines.isWhole ? { ...last, nextOffset: this.#next - this.#lines.restBytes } : last;
  }

  /** Resolves when the container is owned by another node, or is no more, or the signal aborts. */
  async #leaves(place: Place, signal: AbortSignal): Promise<void> {
    for await (const _ of this.#scheduler.changes(signal)) {
      if (placeOf(this.#scheduler, this.#id)?.node !== place.node && this.#exists()) return;
    }
  }

  /** Waits until the move that `place` was left for has ended in one way or the other. */
  async #settled(place: Place, signal: AbortSignal): Promise<void> {
    await waitFor(
      this.#scheduler,
      signal,
      MOVE_TIMEOUT_MS,
      () =>
        `the container ${this.#name} is still on its way after ${MOVE_TIMEOUT_MS / 1000} s; run the command again`,
      () => {
        const now = placeOf(this.#scheduler, this.#id);
        return now === undefined || now.node !== place.node || !isMigrating(this.#scheduler, this.#id)
          ? true
          : undefined;
      },
    );
  }

  /** Returns when another try makes sense; throws `error` when it does not. */
  async #mayRetry(error: GodwitError, place: Place, signal: AbortSignal): Promise<void> {
    if (signal.aborted || error.code !== "unavailable") throw error;
    const nowMs = performance.now();
    this.#absentSinceMs ??= nowMs;
    const moved =
      placeOf(this.#scheduler, this.#id)?.node !== place.node || isMigrating(this.#scheduler, this.#id);
    if (nowMs - this.#absentSinceMs > (this.#request.follow || moved ? AGENT_ABSENCE_MS : AGENT_PAUSE_MS))
      throw error;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, RETRY_MS);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    clearTimeout(timer);
  }

  #exists(): boolean {
    return Object.hasOwn(this.#scheduler.state().containers, this.#id);
  }
}
