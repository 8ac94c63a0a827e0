import {
  AllocationState,
  MigrationState,
  type Migration,
  type MigrationAborted,
  type MigrationCancelRequested,
  type MigrationFinished,
  type MigrationLost,
  type MigrationReturned,
  type MigrationStarted,
  type MigrationSwitched,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { isId } from "../../proto/contract/ids.ts";
import { yieldCheck } from "./apply-placement.ts";
import { insertEnded, keptName, nameOf, reindex, type Cluster } from "./cluster.ts";
import { followOrigin } from "./evacuation.ts";
import { leaveCheck, modeCheck, resolveMode, targetCheck } from "./move-check.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

/** Ended migrations beyond the newest this many are forgotten. */
const ENDED_MIGRATIONS_KEPT = 500;

/** A drain or a return counts its moves and failures by these records, so those of a running one stay. */
const ofRunningDrain = ({ state }: Cluster, { drainId, from, returnId, to }: Migration): boolean => {
  const drain = state.nodes[from]?.drain;
  const back = state.nodes[to]?.return;
  return (
    (drainId !== "" && drain?.id === drainId && drain.outcome === "") ||
    (returnId !== undefined && back?.id === returnId && back.outcome === "")
  );
};

const forgetOldest = (cluster: Cluster): void => {
  const { ended } = cluster.index;
  for (let at = 0; ended.length > ENDED_MIGRATIONS_KEPT && at < ended.length;) {
    const id = ended[at] ?? "";
    const migration = cluster.state.migrations[id];
    if (migration !== undefined && ofRunningDrain(cluster, migration)) {
      at += 1;
      continue;
    }
    delete cluster.state.migrations[id];
    ended.splice(at, 1);
  }
};

/** Ends a running or switched migration; the container is free for the next one. */
export const endMigration = (
  cluster: Cluster,
  migration: Migration,
  outcome: MigrationState,
  error: string,
  atMs: number,
): void => {
  const end = (): void => {
    migration.state = outcome;
    migration.error = error;
    migration.endedAtMs = atMs;
    if (container?.migrationId === migration.id) container.migrationId = "";
  };
  const container = cluster.state.containers[migration.containerId];
  if (container === undefined) end();
  else reindex(cluster, container, end);
  cluster.index.moving.delete(migration.id);
  const waiting = cluster.state.containers[migration.forContainerId ?? ""];
  // The room that it was to make is not made.
  if (outcome === MigrationState.ABORTED && waiting !== undefined) waiting.nominatedNode = "";
  insertEnded(cluster, migration);
  forgetOldest(cluster);
};

/** Aborts the container's migration if ownership has not moved yet: a stop or a removal comes first. */
export const abortMigrationOf = (cluster: Cluster, containerId: string, why: string, atMs: number): void => {
  const migration = cluster.state.migrations[cluster.state.containers[containerId]?.migrationId ?? ""];
  if (migration?.state === MigrationState.RUNNING)
    endMigration(cluster, migration, MigrationState.ABORTED, why, atMs);
};

const find = (cluster: Cluster, id: string): Migration | undefined => cluster.state.migrations[id];
const missing = (id: string): Outcome => reject("not-found", `there is no migration ${id}`);
const ENDED_AS: Partial<Record<MigrationState, string>> = {
  [MigrationState.FINISHED]: "has finished",
  [MigrationState.ABORTED]: "was aborted",
  [MigrationState.LOST]: "is over: its container has lost memory",
  [MigrationState.SWITCHED]: "cannot be undone any more: its container already belongs to the target",
};
const tooLate = (migration: Migration): Outcome =>
  reject("refused", `migration ${migration.id} ${ENDED_AS[migration.state] ?? "is not at that point"}`);

export const migrationStarted = (
  cluster: Cluster,
  start: MigrationStarted,
  { atMs }: ApplyContext,
): Outcome => {
  const { state, index } = cluster;
  if (!isId(start.id)) return reject("invalid", `${start.id} is no migration id`);
  if (state.migrations[start.id] !== undefined)
    return reject("exists", `there is a migration ${start.id} already`);
  const container = state.containers[start.containerId];
  if (container === undefined) return reject("not-found", `there is no container ${start.containerId}`);
  const drain = state.nodes[start.from]?.drain;
  const force = start.drainId !== "" && drain?.id === start.drainId && drain.force;
  const mode = resolveMode(start.mode, container.spec?.migration);
  if (mode === undefined)
    return reject(
      "refused",
      "this migration mode is not supported yet: use auto, precopy, checkpoint or cold",
    );
  const refused =
    leaveCheck(cluster, container, force) ??
    modeCheck(container, mode, force) ??
    targetCheck(cluster, container, start.to, mode);
  if (refused !== undefined) return refused;
  const { forContainerId } = start;
  const waiting = forContainerId === undefined ? undefined : state.containers[forContainerId];
  if (forContainerId !== undefined) {
    const stays = yieldCheck(container, waiting);
    if (stays !== undefined) return stays;
    if (!index.unplaced.has(forContainerId))
      return reject("refused", `${forContainerId} has a node: nothing has to make room for it`);
  }
  const allocation = container.allocation;
  if (allocation?.node !== start.from || start.epoch !== allocation.epoch + 1)
    return reject("refused", `${nameOf(container)} is not where this move was planned from: try again`);
  reindex(cluster, container, () => {
    state.migrations[start.id] = {
      id: start.id,
      containerId: start.containerId,
      containerName: nameOf(container),
      from: start.from,
      to: start.to,
      epoch: start.epoch,
      mode,
      blackoutBudgetMs: start.blackoutBudgetMs,
      state: MigrationState.RUNNING,
      reason: start.reason,
      error: "",
      cancelRequested: false,
      drainId: start.drainId,
      startedAtMs: atMs,
      switchedAtMs: 0,
      endedAtMs: 0,
      figures: undefined,
      bandwidthBytesPerSecond: start.bandwidthBytesPerSecond,
      ...(forContainerId === undefined ? {} : { forContainerId }),
      ...(start.predicted === undefined ? {} : { predicted: start.predicted }),
      ...(start.balance === undefined ? {} : { balance: start.balance }),
      ...(start.returnId === undefined ? {} : { returnId: start.returnId }),
    };
    container.migrationId = start.id;
  });
  index.moving.add(start.id);
  if (waiting !== undefined) waiting.nominatedNode = start.from;
  return undefined;
};

/** The one place where ownership moves. */
export const migrationSwitched = (
  cluster: Cluster,
  { id }: MigrationSwitched,
  { atMs }: ApplyContext,
): Outcome => {
  const migration = find(cluster, id);
  if (migration === undefined) return missing(id);
  if (migration.state !== MigrationState.RUNNING) return tooLate(migration);
  if (migration.cancelRequested) return reject("refused", `migration ${id} is being cancelled`);
  const container = cluster.state.containers[migration.containerId];
  const allocation = container?.allocation;
  if (
    container?.migrationId !== id ||
    allocation?.node !== migration.from ||
    allocation.epoch + 1 !== migration.epoch
  )
    return reject("refused", `migration ${id} no longer fits its container`);
  reindex(cluster, container, () => {
    container.allocation = {
      node: keptName(cluster, migration.to),
      epoch: migration.epoch,
      state: AllocationState.STARTING,
      exitCode: 0,
      restarts: allocation.restarts,
      message: "",
      placedAtMs: atMs,
      inheritsEpoch: 0,
      health: allocation.health,
      readyAtMs: allocation.readyAtMs,
    };
    migration.state = MigrationState.SWITCHED;
    migration.switchedAtMs = atMs;
  });
  followOrigin(cluster, container, migration);
  return undefined;
};

export const migrationAborted = (
  cluster: Cluster,
  { id, reason, errorCode, predicted }: MigrationAborted,
  { atMs }: ApplyContext,
): Outcome => {
  const migration = find(cluster, id);
  if (migration === undefined) return missing(id);
  if (migration.state !== MigrationState.RUNNING) return tooLate(migration);
  if (errorCode !== undefined) migration.errorCode = errorCode;
  if (predicted !== undefined) migration.predicted ??= predicted;
  endMigration(cluster, migration, MigrationState.ABORTED, reason, atMs);
  return undefined;
};

/** Whether the source of a switched migration still has its frozen copy, as far as the log knows. */
export const isHeldBySource = ({ state }: Cluster, migration: Migration): boolean =>
  migration.state === MigrationState.SWITCHED &&
  state.nodes[migration.from] !== undefined &&
  state.containers[migration.containerId]?.allocation?.state === AllocationState.STARTING;

/** Whether the container lacks memory that only its source has. */
export const isLostWithSource = ({ mode, state }: Migration): boolean =>
  mode === MigrationMode.POSTCOPY && state === MigrationState.SWITCHED;

/** The one way back after the switch. The new epoch is above the target's, which can therefore never run it. */
export const returnToSource = (
  cluster: Cluster,
  migration: Migration,
  reason: string,
  atMs: number,
): Outcome => {
  const { epoch, from, id, to } = migration;
  const container = cluster.state.containers[migration.containerId];
  const allocation = container?.allocation;
  if (
    container?.migrationId !== id ||
    allocation?.node !== to ||
    allocation.epoch !== epoch ||
    cluster.state.nodes[from] === undefined
  )
    return reject("refused", `migration ${id} no longer fits its container`);
  reindex(cluster, container, () => {
    container.allocation = {
      ...allocation,
      node: keptName(cluster, from),
      epoch: epoch + 1,
      state: AllocationState.STARTING,
      placedAtMs: atMs,
      inheritsEpoch: epoch - 1,
    };
  });
  followOrigin(cluster, container, migration);
  endMigration(cluster, migration, MigrationState.ABORTED, reason, atMs);
  return undefined;
};

export const migrationReturned = (
  cluster: Cluster,
  { id, reason }: MigrationReturned,
  { atMs }: ApplyContext,
): Outcome => {
  const migration = find(cluster, id);
  if (migration === undefined) return missing(id);
  if (migration.state !== MigrationState.SWITCHED)
    return reject("refused", `migration ${id} has not been switched, so there is nothing to return`);
  return returnToSource(cluster, migration, reason, atMs);
};

export const migrationFinished = (
  cluster: Cluster,
  finished: MigrationFinished,
  { atMs }: ApplyContext,
): Outcome => {
  const migration = find(cluster, finished.id);
  if (migration === undefined) return missing(finished.id);
  if (migration.state !== MigrationState.SWITCHED) return tooLate(migration);
  migration.figures = finished.figures;
  if (finished.predicted !== undefined) migration.predicted ??= finished.predicted;
  endMigration(cluster, migration, MigrationState.FINISHED, "", atMs);
  return undefined;
};

/**
 * Memory that no host has any more. A target that runs the container without it ends it when it learns of this, and
 * what happens then is its restart policy's to say; one that has nothing of it begins it anew.
 */
export const migrationLost = (cluster: Cluster, lost: MigrationLost, { atMs }: ApplyContext): Outcome => {
  const migration = find(cluster, lost.id);
  if (migration === undefined) return missing(lost.id);
  if (migration.state !== MigrationState.SWITCHED)
    return reject("refused", `migration ${lost.id} has no memory left to lose`);
  migration.figures = lost.figures;
  if (lost.predicted !== undefined) migration.predicted ??= lost.predicted;
  endMigration(cluster, migration, MigrationState.LOST, lost.reason, atMs);
  return undefined;
};

export const migrationCancelRequested = (cluster: Cluster, { id }: MigrationCancelRequested): Outcome => {
  const migration = find(cluster, id);
  if (migration === undefined) return missing(id);
  if (migration.state !== MigrationState.RUNNING) return tooLate(migration);
  migration.cancelRequested = true;
  return undefined;
};
