import { GodwitError } from "../../proto/contract/error.ts";
import type { RestoreOrder } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { CheckpointDescription } from "../../proto/gen/godwit/v1/stream.ts";
import { LazyPages } from "../checkpoint/lazy-pages.ts";
import { takeIn } from "../migrate/take-in.ts";
import { beginReceiving, RestorePlace, type TargetInputs } from "../migrate/target.ts";
import type { InitProcess } from "../model/record.ts";
import { readRecords } from "../stream/records.ts";
import { readSealedFile } from "./sealed-file.ts";

/**
 * The container goes on from a checkpoint that this host keeps: as a move's target restores it, from a file. Its TCP
 * connections of that moment are closed: their other ends have gone on without it.
 */
export async function restoreFromCheckpoint(inputs: TargetInputs, order: RestoreOrder): Promise<InitProcess> {
  const { host, migrationId, record, runtime, signal } = inputs;
  const path = host.checkpoints.path(order.checkpointId);
  if (path === undefined)
    throw new GodwitError("not-found", `checkpoint ${order.checkpointId} is not kept on this host`);
  await beginReceiving(inputs);
  await using place = await RestorePlace.prepare(host, runtime, record, signal);
  using lazyPages = new LazyPages(runtime.paths.images);
  const { description, lazy } = await takeIn(
    { runtime, lazyPages, held: undefined, isPostcopy: false },
    readRecords(readSealedFile(path, order.key)),
    signal,
    () => undefined,
  );
  if (description.criuVersion !== host.criuVersion)
    throw new GodwitError(
      "refused",
      `the checkpoint was taken by CRIU ${description.criuVersion}, this host has ${host.criuVersion}`,
    );
  const encoded = Buffer.from(CheckpointDescription.encode(description).finish()).toString("base64");
  inputs.setStatus({ kind: "restoring", migrationId, stage: "received", description: encoded });
  const filling = lazy ? lazyPages.start(runtime.paths.lazyPages) : Promise.resolve();
  filling.catch(() => undefined); // awaited by the restore, unless something else fails first
  return await place.restore(inputs, description, {
    receivedAt: performance.now(),
    lazy,
    filling,
    closesConnections: true,
  });
}
