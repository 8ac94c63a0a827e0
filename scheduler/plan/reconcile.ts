/** One round of the leader: the state and what was reported in, the commands to append out. Pure. */
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "../state/cluster.ts";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "./command.ts";
import { planDrains } from "./drain.ts";
import { planFences } from "./failover.ts";
import { MoveLimits } from "./move-limits.ts";
import { planMigrations } from "./migrations.ts";
import { planLeases, planObserved } from "./observe.ts";
import { choosePlacement, PlannedUse } from "./placement.ts";
import { PlannedDisruptions } from "./disruption.ts";
import { planRemovals } from "./removal.ts";
import { planServices } from "./services.ts";
import { planReturns } from "./return.ts";
import type { Volatile } from "./volatile.ts";

export interface ReconcileOptions {
  readonly leaseMs: number;
  readonly nowMs: number;
  /** Ids for migrations and containers. */
  readonly newId: () => string;
}

const planPlacements = (cluster: Cluster): Command[] => {
  const planned = new PlannedUse(cluster);
  return [...cluster.index.unplaced].flatMap((containerId) => {
    const container = cluster.state.containers[containerId];
    if (container === undefined) return [];
    // A pin is for the first placement; where that node is no more, any will do.
    const only = container.allocation === undefined && container.spec?.node ? container.spec.node : undefined;
    const placement = choosePlacement(cluster, container, {
      planned,
      ...(only === undefined ? {} : { only }),
    });
    if (placement.node !== undefined) {
      planned.add(placement.node, container);
      return command("allocationPlaced", {
        containerId,
        node: placement.node,
        epoch: (container.allocation?.epoch ?? 0) + 1,
      });
    }
    if (placement.failure === container.placementFailure) return [];
    return command("allocationObserved", {
      containerId,
      node: "",
      epoch: 0,
      state: AllocationState.PENDING,
      exitCode: 0,
      restarts: 0,
      message: placement.failure,
      health: HealthState.UNSPECIFIED,
    });
  });
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
  return [
    ...planMigrations(cluster, volatile, options.nowMs),
    ...planLeases(cluster, volatile, options.leaseMs, options.nowMs),
    ...planFences(cluster, volatile, options.nowMs),
    ...planObserved(cluster, volatile),
    ...planRemovals(cluster, volatile),
    ...planServices(cluster, {
      planned: disruptions,
      nowMs: options.nowMs,
      leaderSinceMs: volatile.leaderSinceMs,
      newId: options.newId,
    }),
    ...planPlacements(cluster),
    ...planMaintenance(cluster, volatile, { ...options, disruptions }),
    ...(volatile.balancer?.round({ cluster, seen: volatile, nowMs: options.nowMs }, options.newId) ?? []),
  ];
};
