import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { CheckpointDescription } from "../../proto/gen/godwit/v1/stream.ts";
import type { RecordStatus } from "../model/record.ts";
import { openSender } from "../stream/sender.ts";
import { bandwidthOf } from "./copy-pilot.ts";
import { endImage } from "./image-end.ts";
import { sendLog } from "./log-copy.ts";
import { RecordWriter } from "./record-writer.ts";
import type { SourceInputs } from "./copy-terms.ts";
import { told } from "./reason.ts";
import { STREAM_IDLE_MS, streamEnds } from "./stream-ends.ts";
import { TreeCopy } from "./tree-copy.ts";

/** Exec sessions get this long to end by themselves before the stop. */
const EXEC_GRACE_MS = 2_000;

/**
 * The source's part of a cold move up to DUMPED: files while the container runs, then it is stopped as it asks to be,
 * and what has changed follows. When it returns, the target has everything and nothing of the container runs here until
 * the log says whose it is. When it throws, the record says whether this host may start it again by itself.
 */
export async function copyStopped(inputs: Omit<SourceInputs, "sampler">): Promise<void> {
  const { host, runtime, record, order, progress, signal } = inputs;
  const running = record.status;
  if (running.kind !== "running")
    throw new GodwitError("refused", `the container is ${running.kind}, not running`);
  const { init, startedAtMs } = running;
  const halted = (sent: "no" | "maybe" | "yes"): RecordStatus => ({
    kind: "halted",
    init,
    startedAtMs,
    migrationId: order.id,
    sent,
  });
  progress.enter(MigrationPhase.COPYING);
  await using undo = new AsyncDisposableStack();
  const sender = undo.use(
    await openSender({
      connection: host.connection,
      ends: streamEnds(host, "source", order),
      signal,
      idleTimeoutMs: STREAM_IDLE_MS,
      bytesPerSecond: bandwidthOf(inputs),
    }),
  );
  try {
    const writer = new RecordWriter(sender);
    const files = new TreeCopy({ name: "", folder: runtime.paths.upper, place: "" }, writer);
    const tell = (filesystemBytes: number): void => {
      progress.figures({ filesystemBytes, sentBytes: sender.sentBytes });
      progress.sent(sender.rawBytes);
    };
    let filesystemBytes = await files.sendAll(() => runtime.cgroup.processes(), signal);
    const { endOffset: logSent } = await sendLog(writer, runtime.paths.log, 0);
    await sender.drain();
    tell(filesystemBytes);
    await host.exec().quiesce(runtime.id, EXEC_GRACE_MS, `the container moves to ${order.peerNode}`);
    undo.defer(() => host.exec().admit(runtime.id));
    signal.throwIfAborted();
    if (!runtime.isRunning(init))
      throw new GodwitError("refused", "the container ended before it was stopped");

    const haltedAt = performance.now();
    // Before the stop: it is this move that has ended the container, whatever dies in between.
    inputs.setStatus(halted("no"));
    progress.enter(MigrationPhase.FROZEN);
    await runtime.stop(record, init, signal);
    signal.throwIfAborted();
    const stoppedAt = performance.now();
    progress.figures({ freezeMs: stoppedAt - haltedAt });
    sender.hurry();
    filesystemBytes += await files.sendChange([], signal);
    const log = await sendLog(writer, runtime.paths.log, logSent);
    const description = CheckpointDescription.fromPartial({
      containerId: runtime.id,
      restarts: record.restarts,
      logStartOffset: log.startOffset,
      logOffset: log.endOffset,
      frozenAtMs: Date.now(),
    });
    await endImage(writer, sender, description, {
      signal,
      sent: (word) => inputs.setStatus(halted(word)),
    });
    tell(filesystemBytes);
    const nowMs = performance.now();
    progress.figures({ transferMs: nowMs - stoppedAt, blackoutMs: nowMs - haltedAt });
  } catch (error) {
    sender.abort(told(signal.aborted ? signal.reason : error));
    throw error;
  }
  progress.enter(MigrationPhase.DUMPED);
}
