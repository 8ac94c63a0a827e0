import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { filled } from "../checkpoint/lazy-pages.ts";
import type { Recording } from "../keep/recording.ts";
import { removeTree } from "../native/remove-tree.ts";
import { openSender } from "../stream/sender.ts";
import { bandwidthOf, CopyPilot } from "./copy-pilot.ts";
import { copyThrough } from "./copy.ts";
import type { SourceInputs } from "./copy-terms.ts";
import { makeImageFolder } from "./image-folder.ts";
import { reasonOf, told } from "./reason.ts";
import { STREAM_IDLE_MS, streamEnds } from "./stream-ends.ts";

/** A smaller container's memory is sent again sooner than a thread has begun that would record it. */
const HELD_FROM_BYTES = 32 * 1024 * 1024;

/** To have waited for less is not worth a word. */
const TELLS_MS = 100;

export interface CopyOutcome {
  /** Of the move's total time, what its forecast reckons piece by piece; the rest is what every move takes. */
  readonly forecastMs: number;
  /** What this host may go on holding of the container's memory, once it has left. */
  readonly recording: Recording | undefined;
  /** See copyThrough. */
  readonly grip: Disposable;
}

/**
 * The source's part of a migration up to DUMPED: files while the container runs, then freeze, dump, and what
 * changed. When it returns, the target has everything and the container stands frozen here, alive, until the
 * log says whose it is. When it throws, the record says whether this host may thaw it by itself.
 */
export async function copyToTarget(inputs: SourceInputs): Promise<CopyOutcome> {
  const { host, runtime, record, progress } = inputs;
  const running = record.status;
  if (running.kind !== "running")
    throw new GodwitError("refused", `the container is ${running.kind}, not running`);
  progress.enter(MigrationPhase.COPYING);
  await filled(runtime.paths.lazyPages, inputs.signal);
  await makeImageFolder(runtime.paths.images);
  await using undo = new AsyncDisposableStack();
  // Of a copy that has come off it goes with the container, or when that is thawed: the target needs the cores now.
  await using failed = new AsyncDisposableStack();
  failed.defer(() => removeTree(runtime.paths.images));
  const pilot = undo.use(await CopyPilot.begin(inputs));
  const { signal } = pilot;
  const sender = await openSender({
    connection: host.connection,
    ends: streamEnds(host, "source", inputs.order),
    signal,
    idleTimeoutMs: STREAM_IDLE_MS,
    bytesPerSecond: bandwidthOf(inputs),
  });
  undo.use(sender);
  // The target waits for as long as it hears of the stream.
  using turn = await host.turns.toCopy.take(signal);
  if (turn.waitedMs > TELLS_MS)
    host.logger.info(
      { migration: inputs.order.id, waitedMs: turn.waitedMs },
      "waited for others that copied",
    );
  const isWorthHolding =
    inputs.order.mode === MigrationMode.PRECOPY && runtime.cgroup.memoryBytes() >= HELD_FROM_BYTES;
  const recording = isWorthHolding ? host.held.record(runtime.id) : undefined;
  let grip: Disposable;
  try {
    grip = await copyThrough({ sender, pilot, recording }, running, inputs);
  } catch (error) {
    const reason = reasonOf(error, signal, runtime, running.init);
    // Whichever host is heard first: the operator is to read the cause, not that a stream ended.
    sender.abort(told(reason));
    if (recording !== undefined) host.held.drop(recording);
    throw reason;
  }
  progress.sent(sender.rawBytes);
  progress.enter(MigrationPhase.DUMPED);
  failed.move();
  return { forecastMs: pilot.elapsedMs + pilot.arrivalMs, recording, grip };
}
