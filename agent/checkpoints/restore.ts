import { GodwitError } from "../../proto/contract/error.ts";
import type { RestoreOrder } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { LazyPages } from "../checkpoint/lazy-pages.ts";
import { takeIn } from "../migrate/take-in.ts";
import { beginReceiving, restoreReceived, RestorePlace, type TargetInputs } from "../migrate/target.ts";
import type { InitProcess } from "../model/record.ts";
import { readChain } from "./chain.ts";

/**
 * The container goes on from a checkpoint that this host keeps: as a move's target restores it, from files. Its TCP
 * connections of that moment are closed: their other ends have gone on without it.
 */
export async function restoreFromCheckpoint(inputs: TargetInputs, order: RestoreOrder): Promise<InitProcess> {
  const { host, record, runtime, signal } = inputs;
  const files = [...order.base, { id: order.checkpointId, key: order.key }].map(({ id, key }) => {
    const path = host.checkpoints.path(id);
    if (path !== undefined) return { path, key };
    const what = id === order.checkpointId ? "" : `, and ${order.checkpointId} builds upon it`;
    throw new GodwitError("not-found", `checkpoint ${id} is not kept on this host${what}`);
  });
  await beginReceiving(inputs);
  await using place = await RestorePlace.prepare(host, runtime, record, signal);
  using lazyPages = new LazyPages(runtime.paths.images);
  const taken = await takeIn(
    { runtime, lazyPages, held: undefined, isPostcopy: false },
    readChain(files),
    signal,
  );
  return await restoreReceived(inputs, place, lazyPages, taken, { closesConnections: true });
}
