/** One round of the leader: the state and what was reported in, the commands to append out. Pure. */
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "../state/cluster.ts";
import { planDrains } from "./drain.ts";
import { planCheckpoints } from "./checkpoints.ts";
import { planFences } from "./failover.ts";
import { MoveLimits } from "./move-limits.ts";
import { planMigrations } from "./migrations.ts";
import { planLeases, planObserved } from "./observe.ts";
import { PlannedDisruptions } from "./disruption.ts";
import { planPlacements } from "./place.ts";
import { PlannedUse } from "./placement.ts";
import { WaitingRoom } from "./placement/waiting-room.ts";
import { planPreemptions } from "./preempt.ts";
import { planRemovals } from "./removal.ts";
import { planServices } from "./services.ts";
import { planReturns } from "./return.ts";
import type { Volatile } from "./volatile.ts";

export interface ReconcileOptions {
  readonly leaseMs: number;
  /** False: no time has passed that is worth asking all nodes whether theirs is up (true). */
  readonly isTick?: boolean;
  readonly nowMs: number;
  /** Ids for migrations and containers. */
  readonly newId: () => string;
  /** What is remembered of containers that no node has room for; without it, all of them are tried. */
  readonly waiting?: WaitingRoom;
  /** For checkpoints that are taken: AES-256. */
  readonly newKey: () => Uint8Array;
}

const planNodes = (
  cluster: Cluster,
  volatile: Volatile,
  disruptions: PlannedDisruptions,
  { newId, nowMs, waiting: room = new WaitingRoom() }: ReconcileOptions,
): Command[] => {
  const planned = new PlannedUse(cluster);
  return [
    ...planPlacements(cluster, volatile, { planned, room, nowMs }),
    ...planPreemptions(cluster, volatile, { planned, disruptions, room, newId, nowMs }),
  ];
};

const planMaintenance = (
  cluster: Cluster,
  volatile: Volatile,
  options: ReconcileOptions & { readonly disruptions: PlannedDisruptions },
): Command[] => {
  const { draining, returning } = cluster.index;
  if (draining.size + returning.size === 0) return [];
  const round = { ...options, limits: new MoveLimits(cluster) };
  return [...planReturns(cluster, volatile, round), ...planDrains(cluster, volatile, round)];
};

/** Migrations come first: while one waits for its switch, a client waits. */
export const reconcile = (cluster: Cluster, volatile: Volatile, options: ReconcileOptions): Command[] => {
  const disruptions = new PlannedDisruptions(cluster);
  const { isTick = true, leaseMs, nowMs } = options;
  const names = isTick ? Object.keys(cluster.state.nodes) : volatile.fresh;
  return [
    ...planMigrations(cluster, volatile, nowMs),
    ...planLeases(cluster, volatile, { leaseMs, names, nowMs }),
    ...planFences(cluster, volatile, { names, nowMs }),
    ...planObserved(cluster, volatile),
    ...planCheckpoints(cluster, volatile, options),
    ...planRemovals(cluster, volatile),
    ...planServices(cluster, {
      planned: disruptions,
      nowMs,
      leaderSinceMs: volatile.leaderSinceMs,
      newId: options.newId,
    }),
    ...planNodes(cluster, volatile, disruptions, options),
    ...planMaintenance(cluster, volatile, { ...options, disruptions }),
    ...(volatile.balancer?.round({ cluster, seen: volatile, nowMs }, options.newId) ?? []),
  ];
};
