import { DesiredState, NodeState, type Container } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState, MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "./cluster.ts";

/** As an observed allocation is judged: running, and not known to be ill. */
export const isWell = (health: HealthState): boolean =>
  health === HealthState.UNSPECIFIED || health === HealthState.HEALTHY;

/**
 * Whether a container does its work, as far as the log knows, and nobody has begun to keep it from that. One that is
 * moved live does; one that is moved cold does not from the start.
 */
export const isAvailable = ({ state }: Cluster, container: Container): boolean => {
  const { allocation } = container;
  if (allocation === undefined || allocation.readyAtMs === 0) return false;
  if (container.preemption?.endedAtMs === 0) return false;
  if (container.removing || container.retiring || container.desired !== DesiredState.RUNNING) return false;
  if (state.nodes[allocation.node]?.state !== NodeState.READY) return false;
  return state.migrations[container.migrationId]?.mode !== MigrationMode.COLD;
};
