import { GodwitError } from "../../proto/contract/error.ts";
import { isId } from "../../proto/contract/ids.ts";
import {
  AllocationState,
  DesiredState,
  MigrationState,
  NodeState,
  type AllocationObserved,
  type AllocationPlaced,
  type Container,
  type ContainerCreated,
  type ContainerDesiredSet,
  type ContainerRemoved,
  type ContainerRemoveRequested,
} from "../../proto/gen/godwit/v1/log.ts";
import { HealthState, MigrationMode, type ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { FIRST_HOST, hostOf, LAST_HOST, usableHost } from "../model/network.ts";
import { checkSpec } from "../model/spec-check.ts";
import { dropUnusedReplaced, imageOf } from "./apply-image.ts";
import { abortMigrationOf, endMigration } from "./apply-migration.ts";
import { forgetCheckpointsOf, restoreCheck } from "./apply-checkpoint.ts";
import { isWell } from "./availability.ts";
import { isFenced, isHomeless } from "./failover.ts";
import { CompactContainer } from "./compact-container.ts";
import { endWaiting, enter, keptName, leave, nameOf, nextEpoch, reindex, type Cluster } from "./cluster.ts";
import { touchContainer } from "./touched.ts";
import { targetCheck } from "./move-check.ts";
import { quotaCheck } from "./quota.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

const missing = (id: string): Outcome => reject("not-found", `there is no container ${id}`);

/** Takes fresh addresses first, then the one that has been free for longest, so that none is re-used soon. */
const takeHost = (cluster: Cluster): number | undefined => {
  const { state } = cluster;
  const next = usableHost(Math.max(FIRST_HOST, state.nextAddress));
  if (next > LAST_HOST) return state.freeAddresses.shift();
  state.nextAddress = next + 1;
  return next;
};
const hasHost = ({ state }: Cluster): boolean =>
  usableHost(Math.max(FIRST_HOST, state.nextAddress)) <= LAST_HOST || state.freeAddresses.length > 0;

/** Whether there can be one more container like this, apart from room on a node. */
export const creationCheck = (cluster: Cluster, spec: ContainerSpec): Outcome => {
  if (imageOf(cluster, spec) === undefined)
    return reject("not-found", `there is no image ${spec.image}: "godwit image ls" lists what there is`);
  const overQuota = quotaCheck(cluster, spec);
  if (overQuota !== undefined) return overQuota;
  return hasHost(cluster)
    ? undefined
    : reject("exhausted", "every address of the containers' network is in use");
};

export const containerCreated = (
  cluster: Cluster,
  { id, spec }: ContainerCreated,
  { atMs }: ApplyContext,
  membership?: { readonly service: string; readonly revision: number },
): Outcome => {
  if (!isId(id)) return reject("invalid", `${id} is no container id`);
  if (spec === undefined) return reject("invalid", "no specification given");
  try {
    checkSpec(spec);
  } catch (error) {
    const { code, message } = GodwitError.from(error);
    return reject(code, message);
  }
  if (cluster.state.containers[id] !== undefined)
    return reject("exists", `there is a container ${id} already`);
  if (cluster.index.idByName.has(spec.name))
    return reject(
      "exists",
      `there is a container named ${spec.name} already: remove it or choose another name`,
    );
  const refused = creationCheck(cluster, spec);
  if (refused !== undefined) return refused;
  const host = takeHost(cluster) ?? FIRST_HOST;
  const container = new CompactContainer(
    {
      id,
      spec: cluster.index.templates.compact(spec),
      desired: DesiredState.RUNNING,
      allocation: undefined,
      createdAtMs: atMs,
      service: membership?.service ?? "",
      serviceRevision: membership?.revision ?? 0,
    },
    host,
  );
  cluster.state.containers[id] = container;
  enter(cluster, container);
  return undefined;
};

export const touch = (cluster: Cluster, container: Container): void => {
  if (container.service !== "") cluster.unsettled.add(container.service);
  touchContainer(cluster, container);
};

export const containerDesiredSet = (
  cluster: Cluster,
  set: ContainerDesiredSet,
  { atMs }: ApplyContext,
): Outcome => {
  const container = cluster.state.containers[set.id];
  if (container === undefined) return missing(set.id);
  if (container.removing) return reject("refused", `${nameOf(container)} is being removed`);
  if (container.retiring && set.desired !== DesiredState.STOPPED)
    return reject(
      "refused",
      `${nameOf(container)} is on its way out: its service ${container.service} has no use for it any more`,
    );
  if (set.desired === DesiredState.UNSPECIFIED) return reject("invalid", "no desired state given");
  if (set.restartGeneration < container.restartGeneration)
    return reject("refused", `${nameOf(container)} was restarted by somebody else just now: try again`);
  const restarts = set.restartGeneration > container.restartGeneration;
  if (restarts || set.desired === DesiredState.STOPPED) {
    const why =
      set.desired === DesiredState.STOPPED ? "the container was stopped" : "the container was restarted";
    abortMigrationOf(cluster, set.id, why, atMs);
  }
  reindex(cluster, container, () => {
    container.desired = set.desired;
    container.restartGeneration = set.restartGeneration;
  });
  // It is about to go down: until it is seen to be up again nobody counts on it.
  if (restarts && container.allocation !== undefined) container.allocation.readyAtMs = 0;
  touch(cluster, container);
  return undefined;
};

/** Runs, or may run at any moment without anybody asking. */
const isRunning = (container: Container): boolean => {
  switch (container.allocation?.state) {
    case AllocationState.RUNNING:
    case AllocationState.STARTING:
    case AllocationState.FROZEN:
      return true;
    default:
      return false;
  }
};

export const containerRemoveRequested = (
  cluster: Cluster,
  { id, force }: ContainerRemoveRequested,
  { atMs }: ApplyContext,
): Outcome => {
  const container = cluster.state.containers[id];
  if (container === undefined) return missing(id);
  if (!force && isRunning(container))
    return reject("refused", `${nameOf(container)} is running: stop it first, or remove it with --force`);
  const node = cluster.state.nodes[container.allocation?.node ?? ""];
  if (!force && node?.state === NodeState.LOST)
    return reject(
      "refused",
      `${nameOf(container)} is on a lost node and may still run there: remove it with --force`,
    );
  abortMigrationOf(cluster, id, "the container was removed", atMs);
  reindex(cluster, container, () => {
    container.removing = true;
    container.removeForce ||= force;
  });
  return undefined;
};

export const containerRemoved = (
  cluster: Cluster,
  { id }: ContainerRemoved,
  { atMs }: ApplyContext,
): Outcome => {
  const { state } = cluster;
  const container = state.containers[id];
  if (container === undefined) return missing(id);
  if (!container.removing) return reject("refused", `nobody asked to remove ${nameOf(container)}`);
  const migration = state.migrations[container.migrationId];
  if (migration !== undefined)
    endMigration(cluster, migration, MigrationState.FINISHED, "the container was removed", atMs);
  forgetCheckpointsOf(cluster, id);
  leave(cluster, container);
  if (container.nominatedNode !== "") cluster.news.freed.add(container.nominatedNode);
  delete state.containers[id];
  state.freeAddresses.push(hostOf(container.address));
  if (container.spec !== undefined) dropUnusedReplaced(cluster, container.spec.imageDigest);
  return undefined;
};

export const allocationPlaced = (
  cluster: Cluster,
  placed: AllocationPlaced,
  { atMs }: ApplyContext,
): Outcome => {
  const { state } = cluster;
  const container = state.containers[placed.containerId];
  if (container === undefined) return missing(placed.containerId);
  if (container.removing) return reject("refused", `${nameOf(container)} is being removed`);
  const current = container.allocation;
  if (current !== undefined && !isHomeless(state.nodes, container))
    return reject("refused", `${nameOf(container)} already has a node: ${current.node}`);
  if (container.migrationId !== "") return reject("refused", `${nameOf(container)} is being moved`);
  // Epochs only rise, also across a node that was removed with its copy.
  if (placed.epoch !== nextEpoch(container))
    return reject("refused", `${placed.epoch} is not the next epoch`);
  const refused = targetCheck(cluster, container, placed.node, MigrationMode.COLD);
  if (refused !== undefined) return refused;
  const { checkpointId = "" } = placed;
  const unfit =
    checkpointId === "" ? undefined : restoreCheck(cluster, placed.containerId, checkpointId, placed.node);
  if (unfit !== undefined) return unfit;
  reindex(cluster, container, () => {
    container.allocation = {
      node: keptName(cluster, placed.node),
      epoch: placed.epoch,
      state: AllocationState.PENDING,
      exitCode: 0,
      restarts: 0,
      message: "",
      placedAtMs: atMs,
      inheritsEpoch: 0,
      health: HealthState.UNSPECIFIED,
      readyAtMs: 0,
      ...(checkpointId === "" ? {} : { restoreFrom: checkpointId }),
    };
    endWaiting(cluster, container, atMs);
  });
  return undefined;
};

const BEGUN: ReadonlySet<AllocationState> = new Set([
  AllocationState.RUNNING,
  AllocationState.EXITED,
  AllocationState.FAILED,
]);

/** While a moved container is being started at its target, it is as it was before. */
const isBeingRestored = (container: Container, seen: AllocationObserved): boolean =>
  container.migrationId !== "" && seen.state === AllocationState.STARTING;

/** Without a node it says why the container could not be placed. */
export const allocationObserved = (
  cluster: Cluster,
  seen: AllocationObserved,
  { atMs }: ApplyContext,
): Outcome => {
  const container = cluster.state.containers[seen.containerId];
  if (container === undefined) return missing(seen.containerId);
  if (seen.node === "") {
    if (!cluster.index.unplaced.has(seen.containerId))
      return reject("refused", `${nameOf(container)} has a node`);
    container.placementFailure = seen.message;
    if (container.service !== "") cluster.unsettled.add(container.service);
    return undefined;
  }
  const allocation = container.allocation;
  if (allocation?.node !== seen.node || allocation.epoch !== seen.epoch)
    return reject("refused", `${seen.node} does not own ${nameOf(container)} (any more)`);
  const node = cluster.state.nodes[seen.node];
  if (node !== undefined && isFenced(node)) return reject("refused", `node ${seen.node} is lost`);
  allocation.state = seen.state;
  // It has begun, or could not: from now on it is started like any other.
  if (BEGUN.has(seen.state) && allocation.restoreFrom !== undefined) {
    allocation.restoreFrom = undefined;
    touchContainer(cluster, container);
  }
  allocation.exitCode = seen.exitCode;
  allocation.restarts = seen.restarts;
  allocation.message = seen.message;
  if (!isBeingRestored(container, seen)) {
    // What a new target or agent goes on from.
    if (allocation.health !== seen.health) touchContainer(cluster, container);
    allocation.health = seen.health;
    const isReady = seen.state === AllocationState.RUNNING && isWell(seen.health);
    if (!isReady) allocation.readyAtMs = 0;
    else if (allocation.readyAtMs === 0) allocation.readyAtMs = atMs;
  }
  if (container.service !== "") cluster.unsettled.add(container.service);
  return undefined;
};
