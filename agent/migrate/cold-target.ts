import { mkdir } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase, type MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { CheckpointDescription, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import { applyDeletions, applyLayer } from "../layer/apply.ts";
import { decodePaths } from "../layer/paths.ts";
import type { InitProcess } from "../model/record.ts";
import { LogImport } from "../shim/log-store.ts";
import { openReceiver } from "../stream/receiver.ts";
import { readRecords, type StreamRecord } from "../stream/records.ts";
import { STREAM_IDLE_MS, streamEnds } from "./stream-ends.ts";
import { collect, layerBytes } from "./take-in.ts";
import type { TargetInputs } from "./target.ts";

/**
 * The target's part of a cold move: the image made ready, files and log received, everything of a start but the first
 * instruction, which waits for the switch. From then on it is a start like any other, and begun anew after a crash.
 */
export async function receiveStopped(inputs: TargetInputs, order: MigrationOrder): Promise<InitProcess> {
  const { host, runtime, record, migrationId, signal, progress } = inputs;
  progress.enter(MigrationPhase.PREPARING);
  await runtime.makeFolders();
  inputs.setStatus({ kind: "restoring", migrationId, stage: "receiving" });
  await mkdir(runtime.paths.upper, { recursive: true });
  await host.images.ensure(record.image, signal);
  await using receiver = await openReceiver({
    connection: host.connection,
    ends: streamEnds(host, "target", order),
    signal,
    idleTimeoutMs: STREAM_IDLE_MS,
  });
  progress.enter(MigrationPhase.READY);
  await takeInFiles(runtime, readRecords(receiver.chunks()), signal, () =>
    progress.enter(MigrationPhase.RECEIVING),
  );
  const receivedAt = performance.now();
  inputs.setStatus({ kind: "restoring", migrationId, stage: "received" });
  const init = await runtime.create(record, signal);
  progress.figures({ restoreMs: performance.now() - receivedAt });
  progress.enter(MigrationPhase.RESTORED);
  await inputs.switched();
  const switchedAt = performance.now();
  inputs.setStatus({ kind: "starting" });
  await runtime.begin(record, signal);
  const runningAt = performance.now();
  progress.figures({ resumeMs: runningAt - switchedAt, blackoutMs: runningAt - receivedAt });
  return init;
}

/** Writes what comes into the writable layer and the log. */
async function takeInFiles(
  runtime: ContainerRuntime,
  records: AsyncIterable<StreamRecord>,
  signal: AbortSignal,
  onFirst: () => void,
): Promise<void> {
  let description: CheckpointDescription | undefined;
  using log = new LogImport(runtime.paths.log);
  const iterator = records[Symbol.asyncIterator]();
  try {
    for (let first = true; ; first = false) {
      const next = await iterator.next();
      if (next.done === true) break;
      if (first) onFirst();
      const { header, body } = next.value;
      if (header.kind !== RecordKind.LOG && header.name !== "")
        throw new GodwitError("corrupt", `'${header.name}' is no tree of files that goes along`);
      switch (header.kind) {
        case RecordKind.LAYER:
          await applyLayer(runtime.paths.upper, layerBytes(body, header.length, iterator), { signal });
          break;
        case RecordKind.LAYER_DELETIONS:
          await applyDeletions(runtime.paths.upper, decodePaths(await collect(body)));
          break;
        case RecordKind.LOG:
          log.append(Number(header.name), await collect(body));
          break;
        case RecordKind.DESCRIPTION:
          description = CheckpointDescription.decode(await collect(body));
          log.finish(description.logOffset);
          break;
        case RecordKind.END:
          break;
        default:
          throw new GodwitError("corrupt", "a record of no kind that belongs to a cold move");
      }
    }
  } finally {
    await iterator.return?.();
  }
  if (description === undefined) throw new GodwitError("corrupt", "the files came without their description");
  if (description.containerId !== runtime.id)
    throw new GodwitError("corrupt", "the files are another container's");
}
