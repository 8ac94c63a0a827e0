/** Makes room for containers of a higher priority: by live moves if that is possible, else by stopping what may be stopped. */
import { AllocationState, NodeState, type Command, type Container } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { nextEpoch, type Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import type { PlannedDisruptions } from "./disruption.ts";
import { usualMode } from "./movable.ts";
import { NODES_LOOKED_AT, planRoom } from "./placement/make-room.ts";
import type { PlannedUse } from "./placement/planned-use.ts";
import type { WaitingRoom } from "./placement/waiting-room.ts";
import { observedOn, type Volatile } from "./volatile.ts";

/** For containers of one kind room is sought no more often. */
const LOOK_AGAIN_MS = 1_000;
/** Kinds for which room is sought in one round. */
const KINDS_A_ROUND = 4;

/** Ids of the containers that wait for others which are on their way off a node. */
export const roomIsMadeFor = (cluster: Cluster): ReadonlySet<string> => {
  const { index, state } = cluster;
  const awaited = new Set<string>();
  for (const id of index.placement.preempted) {
    const { allocation, preemption } = state.containers[id] ?? {};
    // A node that was lost meanwhile gives no room, however long it is waited for.
    if (preemption !== undefined && state.nodes[allocation?.node ?? ""]?.state === NodeState.READY)
      awaited.add(preemption.forContainerId);
  }
  for (const id of index.moving) {
    const migration = state.migrations[id];
    if (migration?.forContainerId !== undefined) awaited.add(migration.forContainerId);
  }
  for (const id of awaited) if (!index.unplaced.has(id)) awaited.delete(id);
  return awaited;
};

/**
 * The node has taken in that the container is to be stopped, and says that it has stopped or never began. Only then
 * may it begin elsewhere.
 */
const hasStopped = (cluster: Cluster, volatile: Pick<Volatile, "nodes">, container: Container): boolean => {
  const { allocation } = container;
  const node = cluster.state.nodes[allocation?.node ?? ""];
  const seen = volatile.nodes.get(allocation?.node ?? "");
  if (node?.state !== NodeState.READY || seen?.current !== true) return false;
  const observed = observedOn(seen, container.id);
  if (observed === undefined) return true;
  return (
    observed.epoch === allocation?.epoch &&
    (observed.state === AllocationState.EXITED || observed.state === AllocationState.FAILED)
  );
};

const releases = (cluster: Cluster, volatile: Pick<Volatile, "nodes">): Command[] =>
  [...cluster.index.placement.preempted].flatMap((containerId) => {
    const container = cluster.state.containers[containerId];
    const allocation = container?.allocation;
    if (container === undefined || allocation === undefined || container.removing) return [];
    return hasStopped(cluster, volatile, container)
      ? command("allocationReleased", { containerId, node: allocation.node, epoch: allocation.epoch })
      : [];
  });

export interface PreemptionPlanning {
  readonly planned: PlannedUse;
  readonly disruptions: PlannedDisruptions;
  readonly room: WaitingRoom;
  readonly newId: () => string;
  readonly nowMs: number;
}

export const planPreemptions = (
  cluster: Cluster,
  seen: Pick<Volatile, "migrations" | "nodes" | "order">,
  { disruptions, newId, nowMs, planned, room }: PreemptionPlanning,
): Command[] => {
  const commands = releases(cluster, seen);
  const { priorities } = cluster.index.placement;
  // Where all are equal, nobody yields.
  if (priorities.size < 2) return commands;
  const lowest = Math.min(...priorities.keys());
  const awaited = roomIsMadeFor(cluster);
  const leaving = new Set<string>();
  let looked = 0;
  for (const kind of [...room.kinds].sort((a, b) => b.priority - a.priority)) {
    if (kind.priority <= lowest || looked === KINDS_A_ROUND) break;
    if (nowMs < kind.preemptAtMs) continue;
    const [first = ""] = kind.waiting;
    const container = cluster.index.unplaced.has(first) ? cluster.state.containers[first] : undefined;
    // One after the other: what leaves for the first may be enough for the second.
    if (container === undefined || awaited.has(first) || room.planned.has(first)) continue;
    kind.preemptAtMs = nowMs + LOOK_AGAIN_MS;
    looked += 1;
    const plan = planRoom(cluster, seen, container, {
      planned,
      disruptions,
      leaving,
      from: kind.preemptFrom,
    });
    if (plan === undefined) {
      kind.preemptFrom += NODES_LOOKED_AT;
      continue;
    }
    const { moves, node, stops } = plan;
    planned.add(node, container);
    for (const { container: victim, to } of moves) {
      planned.add(to, victim);
      leaving.add(victim.id);
      if (usualMode(victim) === MigrationMode.COLD) disruptions.add(victim);
      commands.push(
        command("migrationStarted", {
          id: newId(),
          containerId: victim.id,
          from: node,
          to,
          epoch: nextEpoch(victim),
          mode: MigrationMode.AUTO,
          blackoutBudgetMs: victim.spec?.blackoutBudgetMs ?? 0,
          drainId: "",
          bandwidthBytesPerSecond: 0,
          reason: "preemption",
          forContainerId: container.id,
        }),
      );
    }
    // Nobody is stopped while moves may fail that it would be stopped for in vain.
    if (moves.length > 0) continue;
    for (const victim of stops) {
      disruptions.add(victim);
      leaving.add(victim.id);
      commands.push(
        command("containerPreempted", {
          containerId: victim.id,
          node,
          epoch: victim.allocation?.epoch ?? 0,
          forContainerId: container.id,
        }),
      );
    }
  }
  return commands;
};
