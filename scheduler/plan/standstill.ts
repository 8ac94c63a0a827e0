/** Migrations that nobody can end for now: what a person is told, and can do. Pure. */
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, MigrationState, type Migration } from "../../proto/gen/godwit/v1/log.ts";
import { whyItWaits } from "../state/failover.ts";
import type { Cluster } from "../state/cluster.ts";
import { hasArrived, mayBeReleased } from "./arrived.ts";
import { lost } from "./migrations.ts";
import type { Volatile } from "./volatile.ts";

type Seen = Pick<Volatile, "migrations" | "nodes">;

/**
 * Why a switched migration stands still. Its container belongs to the target: only one who knows that the target is
 * dead may let it go on elsewhere, and a node that does not report need not be.
 */
export const standstillOf = (cluster: Cluster, seen: Seen, migration: Migration): string | undefined => {
  if (migration.state !== MigrationState.SWITCHED) return undefined;
  const { containerId, containerName, from, id, to } = migration;
  const source = lost(cluster, from);
  const target = lost(cluster, to);
  if (
    target === undefined &&
    source !== undefined &&
    hasArrived(seen, migration) &&
    !mayBeReleased(seen, migration)
  )
    return `${source} with memory of ${containerName} that has not followed: it waits for that where it needs it, and goes on when ${from} is back; if ${from} never will be, "godwit node rm --is-off ${from}" ends ${containerName}`;
  if (target === undefined)
    return source !== undefined && seen.migrations.get(id)?.target?.phase === MigrationPhase.GIVEN_UP
      ? `${to} could not restore ${containerName} and has given it back, but ${source}: it goes on when ${from} is back`
      : undefined;
  const allocation = cluster.state.containers[containerId]?.allocation;
  const hasRun = allocation?.state === AllocationState.RUNNING || hasArrived(seen, migration);
  const why = `${target} after ${containerName} had become its own`;
  if (hasRun) return `${why}, and it ran there: it goes on when ${to} is back`;
  const kept =
    source === undefined ? `${from} keeps the copy that it froze` : `${source} too, with its frozen copy`;
  const node = cluster.state.nodes[to];
  const container = cluster.state.containers[containerId];
  const waits = container !== undefined && whyItWaits(container) !== undefined;
  if (node !== undefined && node.fenceMs > 0 && !cluster.state.failoverOff && !waits)
    return `${why}, so it may run there unseen until the lease of ${to} has ended for certain; ${kept}, and then ${containerName} goes on`;
  return `${why}, so it may run there unseen; ${kept}. It goes on when ${to} is back; if ${to} never will be, make sure that it is off, and "godwit node rm --is-off ${to}" lets ${containerName} go on at ${from}`;
};
