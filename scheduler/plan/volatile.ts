/** What the leader knows from reports and does not keep in the log. */
import {
  MigrationPhase,
  type MigrationReport,
  type ObservedAllocation,
} from "../../proto/gen/godwit/v1/agent.ts";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "../state/cluster.ts";
import type { NodeSeen } from "./node-seen.ts";
import type { NodeOrder } from "./placement/node-order.ts";

export interface MigrationSeen {
  readonly source?: MigrationReport;
  readonly target?: MigrationReport;
  /** When either side last got on. */
  readonly progressAtMs: number;
  /** The target has been ready once: the source may copy. Never taken back. */
  readonly copy: boolean;
}

export interface Volatile {
  /** By node; absent: not heard of since this leader began. */
  readonly nodes: ReadonlyMap<string, NodeSeen>;
  /** Nodes that have reported since the last round. */
  readonly fresh: ReadonlySet<string>;
  /** All of them, in the order in which containers take them; absent: made anew by each who asks. */
  readonly order?: NodeOrder;
  /** By migration. */
  readonly migrations: ReadonlyMap<string, MigrationSeen>;
  /** End of a node's lease. */
  leaseUntilMs(node: string): number;
  /** From when on the containers of a silent node stand still, if it has said that its fence closes after `fenceMs`. */
  fencedFromMs(node: string, fenceMs: number): number;
  /** Time limits count from here at the earliest: what happened before is not known. */
  readonly leaderSinceMs: number;
  /** Absent: nothing is balanced. */
  readonly balancer?: RoundPlanner;
}

/** A planner that remembers something from one round to the next. */
interface RoundPlanner {
  round(
    terms: {
      readonly cluster: Cluster;
      readonly seen: Pick<Volatile, "migrations" | "nodes" | "order">;
      readonly nowMs: number;
    },
    newId: () => string,
  ): Command[];
}

export const observedOn = (seen: NodeSeen | undefined, containerId: string): ObservedAllocation | undefined =>
  seen?.allocations.get(containerId);

const AFTER_READY: ReadonlySet<MigrationPhase> = new Set([
  MigrationPhase.READY,
  MigrationPhase.RECEIVING,
  MigrationPhase.RESTORED,
  MigrationPhase.FILLING,
  MigrationPhase.RUNNING,
]);
const COPY_BEGUN: ReadonlySet<MigrationPhase> = new Set([
  MigrationPhase.COPYING,
  MigrationPhase.FROZEN,
  MigrationPhase.DUMPED,
]);

const advanced = (old: MigrationReport | undefined, now: MigrationReport): boolean =>
  old === undefined || old.phase !== now.phase || now.bytesDone > old.bytesDone;

/** Takes in one side's report of a migration. A new leader learns from the source too that copying had begun. */
export const migrationSeen = (
  before: MigrationSeen | undefined,
  side: "source" | "target",
  report: MigrationReport,
  nowMs: number,
): MigrationSeen => ({
  ...before,
  [side]: report,
  progressAtMs: before === undefined || advanced(before[side], report) ? nowMs : before.progressAtMs,
  copy:
    before?.copy === true ||
    (side === "target" ? AFTER_READY.has(report.phase) : COPY_BEGUN.has(report.phase)),
});
