/** How far a switched migration has come, from what both hosts say. Pure. */
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, NodeState, type Migration } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { isOver } from "../model/allocation-state.ts";
import type { Cluster } from "../state/cluster.ts";
import { observedOn, type Volatile } from "./volatile.ts";

type Seen = Pick<Volatile, "migrations" | "nodes">;

const stateAtTarget = (seen: Seen, { containerId, epoch, to }: Migration): AllocationState | undefined => {
  const observed = observedOn(seen.nodes.get(to), containerId);
  return observed?.epoch === epoch ? observed.state : undefined;
};

const hasEnded = (seen: Seen, migration: Migration): boolean => {
  const state = stateAtTarget(seen, migration);
  return state !== undefined && isOver(state);
};

/** Nothing runs on a host whose lease has ended, whatever has been restored there: no instruction of it need have run. */
export const standsStill = ({ nodes }: Pick<Volatile, "nodes">, node: string): boolean =>
  nodes.get(node)?.report.fenceClosed === true;

/** Whether the target has the container in its own hands: it runs there, or has run and ended. */
export const hasArrived = (seen: Seen, migration: Migration): boolean => {
  if (hasEnded(seen, migration)) return true;
  if (standsStill(seen, migration.to)) return false;
  const phase = seen.migrations.get(migration.id)?.target?.phase;
  return (
    phase === MigrationPhase.RUNNING ||
    phase === MigrationPhase.FILLING ||
    stateAtTarget(seen, migration) === AllocationState.RUNNING
  );
};

/** Whether all of a post-copied container's memory is at the target, or never has to be. */
export const isWhole = (seen: Seen, migration: Migration): boolean =>
  seen.migrations.get(migration.id)?.target?.phase === MigrationPhase.RUNNING || hasEnded(seen, migration);

/** Whether the source may let go of its frozen copy. */
export const mayBeReleased = (seen: Seen, migration: Migration): boolean =>
  hasArrived(seen, migration) && (migration.mode !== MigrationMode.POSTCOPY || isWhole(seen, migration));

/** The code of an error that says that a page is nowhere any more. */
const NOT_FOUND = "not-found";

/**
 * Why the memory that a running container still lacks will never come; undefined: it may. Of a source that does not
 * answer nobody knows, and it is waited for; that it was removed is seen where it is.
 */
export const memoryLost = (cluster: Cluster, seen: Seen, migration: Migration): string | undefined => {
  const { containerId, epoch, from, id, mode } = migration;
  const { source, target } = seen.migrations.get(id) ?? {};
  if (mode !== MigrationMode.POSTCOPY || target?.phase !== MigrationPhase.FILLING) return undefined;
  // Of one that is being removed both hosts are told so.
  if (cluster.state.containers[containerId]?.removing !== false) return undefined;
  if (cluster.state.nodes[from]?.state !== NodeState.READY) return undefined;
  const what = (why: string): string => `memory that had not followed from ${from} is lost: ${why}`;
  if (source?.phase === MigrationPhase.FAILED && source.errorCode === NOT_FOUND) return what(source.error);
  const node = seen.nodes.get(from);
  const observed = observedOn(node, containerId);
  if (observed === undefined) return node?.current === true ? what("its copy there is gone") : undefined;
  return observed.epoch === epoch - 1 && isOver(observed.state)
    ? what(`its frozen processes there have ended${observed.message === "" ? "" : ` (${observed.message})`}`)
    : undefined;
};
