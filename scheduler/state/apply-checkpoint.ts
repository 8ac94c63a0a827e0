/** Checkpoints of containers: taken, kept, and gone on from. */
import { isId } from "../../proto/contract/ids.ts";
import {
  CheckpointState,
  type Checkpoint,
  type CheckpointFailed,
  type CheckpointRemoved,
  type CheckpointStarted,
  type CheckpointStored,
  type ContainerRestored,
} from "../../proto/gen/godwit/v1/checkpoint.ts";
import { AllocationState, DesiredState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState, MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { baseFault, isBuiltUpon } from "./checkpoint-chain.ts";
import { unfitFor } from "./checkpoint-fit.ts";
import {
  endWaiting,
  indexCheckpoint,
  keptName,
  nameOf,
  nextEpoch,
  reindex,
  type Cluster,
} from "./cluster.ts";
import { isHomeless } from "./failover.ts";
import { targetCheck } from "./move-check.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

export const CHECKPOINT_KEY_BYTES = 32;
/** What an operator made by hand is theirs to remove, up to so many of one container. */
const MOST_OF_ONE = 100;
const MOST_ERROR = 1_024;

const missing = (id: string): Outcome => reject("not-found", `there is no checkpoint ${id}`);

const ofContainer = (cluster: Cluster, containerId: string): Checkpoint[] =>
  [...(cluster.index.checkpointsOf.get(containerId) ?? [])].flatMap(
    (id) => cluster.state.checkpoints[id] ?? [],
  );

const forget = (cluster: Cluster, checkpoint: Checkpoint): void => {
  indexCheckpoint(cluster, checkpoint, -1);
  delete cluster.state.checkpoints[checkpoint.id];
};

/** Nobody wants it any more: it goes, and what only it was built upon; or it waits for those that build upon it. */
const release = (cluster: Cluster, checkpoint: Checkpoint): void => {
  if (isBuiltUpon(cluster, checkpoint)) {
    checkpoint.superseded = true;
    return;
  }
  forget(cluster, checkpoint);
  releaseUnwanted(cluster, checkpoint.baseId);
};

/** One that was there only for what has built upon it. */
const releaseUnwanted = (cluster: Cluster, baseId: string): void => {
  const base = cluster.state.checkpoints[baseId];
  if (base?.superseded === true) release(cluster, base);
};

/** With its container; keepers delete what is not named to them any more. */
export const forgetCheckpointsOf = (cluster: Cluster, containerId: string): void => {
  for (const checkpoint of ofContainer(cluster, containerId)) forget(cluster, checkpoint);
};

const change = (cluster: Cluster, checkpoint: Checkpoint, fields: Partial<Checkpoint>): void => {
  indexCheckpoint(cluster, checkpoint, -1);
  Object.assign(checkpoint, fields);
  indexCheckpoint(cluster, checkpoint, 1);
};

export const checkpointStarted = (
  cluster: Cluster,
  { baseId, containerId, epoch, id, keepers, key, reason }: CheckpointStarted,
  { atMs }: ApplyContext,
): Outcome => {
  const { state } = cluster;
  if (!isId(id)) return reject("invalid", `${id} is no checkpoint id`);
  if (state.checkpoints[id] !== undefined) return reject("exists", `there is a checkpoint ${id} already`);
  if (key.length !== CHECKPOINT_KEY_BYTES) return reject("invalid", "a checkpoint needs a key of 32 bytes");
  const container = state.containers[containerId];
  if (container === undefined) return reject("not-found", `there is no container ${containerId}`);
  const name = nameOf(container);
  const { allocation } = container;
  if (container.removing) return reject("refused", `${name} is being removed`);
  if (container.migrationId !== "")
    return reject("refused", `${name} is moving: try again when it has moved`);
  if (allocation?.epoch !== epoch || allocation.state !== AllocationState.RUNNING)
    return reject("refused", `${name} does not run: there is nothing to take a checkpoint of`);
  const source = state.nodes[allocation.node];
  if (source?.state !== NodeState.READY || source.info === undefined)
    return reject("refused", `${name} is on a lost node`);
  const before = ofContainer(cluster, containerId);
  if (before.some((one) => one.state === CheckpointState.TAKING))
    return reject("refused", `a checkpoint of ${name} is being taken already`);
  const listed = before.filter(({ superseded }) => !superseded).length;
  if (listed >= MOST_OF_ONE)
    return reject("exhausted", `there are ${listed} checkpoints of ${name}: remove some first`);
  if (keepers.length === 0 || new Set(keepers).size !== keepers.length || keepers.includes(allocation.node))
    return reject("invalid", "a checkpoint is kept by other nodes than its container's, each once");
  for (const keeper of keepers)
    if (state.nodes[keeper]?.state !== NodeState.READY)
      return reject("refused", `node ${keeper} is not there`);
  const fault = baseId === "" ? undefined : baseFault(cluster, baseId, { containerId, epoch, keepers });
  if (fault !== undefined) return reject("refused", fault);
  for (const one of before) if (one.state === CheckpointState.FAILED) forget(cluster, one);
  const { arch, cpuFlags, criuVersion, features } = source.info;
  const checkpoint: Checkpoint = {
    id,
    containerId,
    containerName: name,
    epoch,
    source: allocation.node,
    keepers,
    key,
    state: CheckpointState.TAKING,
    reason,
    error: "",
    startedAtMs: atMs,
    storedAtMs: 0,
    sizeBytes: 0,
    memoryBytes: 0,
    blackoutMs: 0,
    criuVersion,
    cpuFlags,
    features,
    arch,
    baseId,
    superseded: false,
    wholeBytes: 0,
  };
  state.checkpoints[id] = checkpoint;
  indexCheckpoint(cluster, checkpoint, 1);
  return undefined;
};

const taking = (cluster: Cluster, id: string): Checkpoint | undefined => {
  const checkpoint = cluster.state.checkpoints[id];
  return checkpoint?.state === CheckpointState.TAKING ? checkpoint : undefined;
};

export const checkpointStored = (
  cluster: Cluster,
  { baseId, blackoutMs, id, memoryBytes, sizeBytes, wholeBytes }: CheckpointStored,
  { atMs }: ApplyContext,
): Outcome => {
  const checkpoint = taking(cluster, id);
  if (checkpoint === undefined) return missing(id);
  const { baseId: orderedBaseId, containerId } = checkpoint;
  if (baseId !== "" && baseId !== orderedBaseId)
    return reject("invalid", `checkpoint ${id} was not to build upon ${baseId}`);
  change(cluster, checkpoint, {
    state: CheckpointState.STORED,
    storedAtMs: atMs,
    sizeBytes,
    memoryBytes,
    blackoutMs,
    baseId,
    wholeBytes,
  });
  if (baseId === "") releaseUnwanted(cluster, orderedBaseId);
  const used = cluster.state.containers[containerId]?.allocation?.restoreFrom;
  for (const older of ofContainer(cluster, containerId)) {
    const isReplaced = older.id !== id && older.reason === "periodic" && older.id !== used;
    if (isReplaced && !older.superseded) release(cluster, older);
  }
  return undefined;
};

export const checkpointFailed = (
  cluster: Cluster,
  { error, id }: CheckpointFailed,
  { atMs }: ApplyContext,
): Outcome => {
  const checkpoint = taking(cluster, id);
  if (checkpoint === undefined) return missing(id);
  const { baseId } = checkpoint;
  change(cluster, checkpoint, {
    state: CheckpointState.FAILED,
    error: error.slice(0, MOST_ERROR),
    storedAtMs: atMs,
    baseId: "",
  });
  releaseUnwanted(cluster, baseId);
  return undefined;
};

export const checkpointRemoved = (cluster: Cluster, { id }: CheckpointRemoved): Outcome => {
  const checkpoint = cluster.state.checkpoints[id];
  if (checkpoint === undefined || checkpoint.superseded) return missing(id);
  if (cluster.state.containers[checkpoint.containerId]?.allocation?.restoreFrom === id)
    return reject("refused", `${checkpoint.containerName} is just going on from checkpoint ${id}`);
  release(cluster, checkpoint);
  return undefined;
};

/** Why the container cannot go on from it there. */
export const restoreCheck = (
  cluster: Cluster,
  containerId: string,
  checkpointId: string,
  nodeName: string,
): Outcome => {
  const { state } = cluster;
  const checkpoint = state.checkpoints[checkpointId];
  const node = state.nodes[nodeName];
  const container = state.containers[containerId];
  if (checkpoint?.containerId !== containerId || checkpoint.superseded || container === undefined)
    return missing(checkpointId);
  if (checkpoint.state !== CheckpointState.STORED)
    return reject("refused", `checkpoint ${checkpointId} is not complete`);
  if (node?.info === undefined) return reject("not-found", `there is no node ${nodeName}`);
  if (!checkpoint.keepers.includes(nodeName))
    return reject("refused", `${nodeName} does not keep it: ${checkpoint.keepers.join(" and ")} do`);
  if (node.state !== NodeState.READY) return reject("refused", `node ${nodeName} is lost`);
  const [unfit] = unfitFor(checkpoint, node.info);
  if (unfit !== undefined) return reject("refused", unfit);
  // Where it lies stopped, it has its room.
  return container.allocation?.node === nodeName
    ? undefined
    : targetCheck(cluster, container, nodeName, MigrationMode.COLD);
};

export const containerRestored = (
  cluster: Cluster,
  { checkpointId, containerId, epoch, node }: ContainerRestored,
  { atMs }: ApplyContext,
): Outcome => {
  const container = cluster.state.containers[containerId];
  if (container === undefined) return reject("not-found", `there is no container ${containerId}`);
  const name = nameOf(container);
  const { allocation } = container;
  if (container.removing || container.retiring) return reject("refused", `${name} is on its way out`);
  if (container.migrationId !== "") return reject("refused", `${name} is moving`);
  if (epoch !== nextEpoch(container)) return reject("refused", `${epoch} is not the next epoch`);
  // Only what has ended may be gone on from elsewhere: never two running copies.
  const hasEnded =
    allocation === undefined ||
    isHomeless(cluster.state.nodes, container) ||
    (container.desired === DesiredState.STOPPED &&
      (allocation.state === AllocationState.EXITED || allocation.state === AllocationState.FAILED));
  if (!hasEnded) return reject("refused", `${name} is not stopped: "godwit stop ${name}" first`);
  const refused = restoreCheck(cluster, containerId, checkpointId, node);
  if (refused !== undefined) return refused;
  reindex(cluster, container, () => {
    container.desired = DesiredState.RUNNING;
    container.allocation = {
      node: keptName(cluster, node),
      epoch,
      state: AllocationState.PENDING,
      exitCode: 0,
      restarts: allocation?.restarts ?? 0,
      message: "",
      placedAtMs: atMs,
      inheritsEpoch: 0,
      health: HealthState.UNSPECIFIED,
      readyAtMs: 0,
      restoreFrom: checkpointId,
    };
    endWaiting(cluster, container, atMs);
  });
  return undefined;
};
