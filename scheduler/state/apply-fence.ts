/** The fences of hosts, and what becomes of a lost host's containers. */
import {
  MigrationState,
  NodeState,
  type Container,
  type FailoverSet,
  type NodeFenced,
  type NodeFenceSet,
} from "../../proto/gen/godwit/v1/log.ts";
import { LONGEST_FENCE_MS } from "../model/lease.ts";
import { whyItWaits } from "./failover.ts";
import { endMigration, isHeldBySource, isLostWithSource, returnToSource } from "./apply-migration.ts";
import { reindexNode, type Cluster } from "./cluster.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

const missing = (node: string): Outcome => reject("not-found", `there is no node ${node}`);

export const nodeFenceSet = (cluster: Cluster, { node: name, fenceMs, fault }: NodeFenceSet): Outcome => {
  const node = cluster.state.nodes[name];
  if (node === undefined) return missing(name);
  if (node.state !== NodeState.READY)
    return reject("refused", `node ${name} is lost: its word is an old one`);
  if (fenceMs > LONGEST_FENCE_MS) return reject("invalid", `a fence that closes after ${fenceMs} ms is none`);
  if (fenceMs > 0 && cluster.state.failoverOff) return reject("refused", "failover is off");
  node.fenceMs = fenceMs;
  node.fenceFault = fenceMs > 0 ? "" : fault;
  return undefined;
};

/**
 * Nothing of a lost node runs any more. Moves that it had a part in end as they do when somebody says that it is off:
 * what it was about to run goes on at the host that still has it frozen.
 */
export const endMovesOf = (
  cluster: Cluster,
  name: string,
  {
    reason,
    atMs,
    isForGood,
    goesOn = () => true,
  }: {
    readonly reason: string;
    readonly atMs: number;
    /** It will never be back, with what it keeps. */
    readonly isForGood: boolean;
    readonly goesOn?: (container: Container) => boolean;
  },
): void => {
  const { index, state } = cluster;
  for (const id of index.moving) {
    const migration = state.migrations[id];
    if (migration === undefined || (migration.from !== name && migration.to !== name)) continue;
    const container = state.containers[migration.containerId];
    const isSwitched = migration.state === MigrationState.SWITCHED;
    // It waits for the node that it belongs to, and its move with it.
    if (isSwitched && migration.to === name && container !== undefined && !goesOn(container)) continue;
    const isReturned =
      migration.to === name &&
      isHeldBySource(cluster, migration) &&
      returnToSource(cluster, migration, `${reason} before it was known to run there`, atMs) === undefined;
    if (isReturned) continue;
    const isLost = isLostWithSource(migration);
    // What it still has of a post-copied container's memory is waited for, as long as it may come.
    if (isLost && migration.from === name && !isForGood) continue;
    // A target that is back before the container has gone on elsewhere has it without that memory.
    if (isLost) {
      const told = `${reason}, and with it memory that had not followed`;
      endMigration(cluster, migration, MigrationState.LOST, told, atMs);
      continue;
    }
    // Its target owns the container, and must go on knowing that it is to run what it was sent: nobody else has it.
    if (isSwitched && migration.to !== name) continue;
    const outcome =
      migration.state === MigrationState.RUNNING ? MigrationState.ABORTED : MigrationState.FINISHED;
    endMigration(cluster, migration, outcome, reason, atMs);
  }
};

export const nodeFenced = (cluster: Cluster, { node: name }: NodeFenced, { atMs }: ApplyContext): Outcome => {
  const node = cluster.state.nodes[name];
  if (node === undefined) return missing(name);
  if (node.state !== NodeState.LOST) return reject("refused", `node ${name} reports`);
  if (node.fenced) return reject("refused", `node ${name} is fenced already`);
  if (node.fenceMs === 0 || cluster.state.failoverOff)
    return reject("refused", `nothing is known to stop the containers of node ${name}`);
  endMovesOf(cluster, name, {
    reason: `node ${name} was lost`,
    atMs,
    isForGood: false,
    goesOn: (container) => whyItWaits(container) === undefined,
  });
  reindexNode(cluster, name, () => {
    node.fenced = true;
  });
  return undefined;
};

export const failoverSet = (cluster: Cluster, { enabled }: FailoverSet): Outcome => {
  cluster.state.failoverOff = !enabled;
  for (const name of Object.keys(cluster.state.nodes)) {
    const node = cluster.state.nodes[name];
    if (enabled || node === undefined) continue;
    // Agents open their fences from now on, so what they have said no longer holds.
    const forget = (): void => void Object.assign(node, { fenceMs: 0, fenceFault: "", fenced: false });
    if (node.fenced) reindexNode(cluster, name, forget);
    else forget();
  }
  return undefined;
};
