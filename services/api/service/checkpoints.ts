/** Checkpoint calls of the API. */
import {
  CheckpointState,
  type CheckpointInfo,
  type CreateCheckpointRequest,
  type ListCheckpointsRequest,
  type ListCheckpointsResponse,
  type RemoveCheckpointRequest,
  type RemoveCheckpointResponse,
  type RestoreCheckpointRequest,
  type RestoreCheckpointResponse,
} from "../../../proto/gen/godwit/v1/checkpoint.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { DeepReadonlyState, Scheduler } from "../../../scheduler/mod.ts";
import { findContainer } from "../find.ts";
import { lookUp } from "../lookup.ts";

type CheckpointRecord = DeepReadonlyState["checkpoints"][string];

const STATES: Partial<Record<CheckpointState, string>> = {
  [CheckpointState.TAKING]: "taking",
  [CheckpointState.STORED]: "stored",
  [CheckpointState.FAILED]: "failed",
};

type Checkpoints = DeepReadonlyState["checkpoints"];

/** With all that it builds upon; 0: it is not complete. */
const keptBytes = (all: Checkpoints, { baseId, sizeBytes, state }: CheckpointRecord): number => {
  if (state !== CheckpointState.STORED) return 0;
  let bytes = sizeBytes;
  for (let one = all[baseId]; one !== undefined; one = all[one.baseId]) bytes += one.sizeBytes;
  return bytes;
};

/** Without its key, which only agents get. */
const infoOf = (all: Checkpoints, checkpoint: CheckpointRecord): CheckpointInfo => ({
  id: checkpoint.id,
  container: checkpoint.containerName,
  containerId: checkpoint.containerId,
  state: STATES[checkpoint.state] ?? "",
  source: checkpoint.source,
  keepers: [...checkpoint.keepers],
  reason: checkpoint.reason,
  error: checkpoint.error,
  atMs: checkpoint.startedAtMs,
  sizeBytes: checkpoint.sizeBytes,
  memoryBytes: checkpoint.memoryBytes,
  blackoutMs: checkpoint.blackoutMs,
  baseId: checkpoint.baseId,
  wholeBytes: checkpoint.wholeBytes,
  keptBytes: keptBytes(all, checkpoint),
});

export class CheckpointService {
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  async create({ container }: CreateCheckpointRequest): Promise<CheckpointInfo> {
    const found = findContainer(this.#scheduler.state(), container);
    const id = await this.#scheduler.createCheckpoint(found.id);
    const { checkpoints } = this.#scheduler.state();
    const checkpoint = checkpoints[id];
    if (checkpoint === undefined)
      throw new GodwitError("not-found", `checkpoint ${id} was begun by this request and is gone again`);
    return infoOf(checkpoints, checkpoint);
  }

  list({ container }: ListCheckpointsRequest): Promise<ListCheckpointsResponse> {
    const state = this.#scheduler.state();
    const id = container === "" ? undefined : findContainer(state, container).id;
    const checkpoints = Object.values(state.checkpoints)
      .filter(({ containerId, superseded }) => !superseded && (id === undefined || containerId === id))
      .toSorted((a, b) => a.startedAtMs - b.startedAtMs || (a.id < b.id ? -1 : 1))
      .map((one) => infoOf(state.checkpoints, one));
    return Promise.resolve({ checkpoints });
  }

  async restore({ id, node }: RestoreCheckpointRequest): Promise<RestoreCheckpointResponse> {
    const { containerName, id: whole } = this.#find(id);
    const to = await this.#scheduler.restoreCheckpoint(whole, ...(node === "" ? [] : [node]));
    return { container: containerName, node: to };
  }

  async remove({ id }: RemoveCheckpointRequest): Promise<RemoveCheckpointResponse> {
    await this.#scheduler.removeCheckpoint(this.#find(id).id);
    return {};
  }

  #find(wanted: string): CheckpointRecord {
    const all = Object.values(this.#scheduler.state().checkpoints).filter(({ superseded }) => !superseded);
    const named = all.map((record) => ({ id: record.id, name: record.id, record }));
    return lookUp(named, wanted, "checkpoint", "'godwit checkpoint ls' lists them").record;
  }
}
