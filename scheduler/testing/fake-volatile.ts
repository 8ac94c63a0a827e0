import {
  MigrationReport,
  ObservedAllocation,
  Report,
  type MigrationPhase,
} from "../../proto/gen/godwit/v1/agent.ts";
import {
  migrationSeen,
  nodeSeen,
  type MigrationSeen,
  type NodeSeen,
  type Volatile,
} from "../plan/volatile.ts";
import { sampleNode } from "./sample.ts";

/** Reports as a test wants them. */
export class FakeVolatile implements Volatile {
  readonly nodes = new Map<string, NodeSeen>();
  readonly fresh = new Set<string>();
  readonly migrations = new Map<string, MigrationSeen>();
  readonly leases = new Map<string, number>();
  leaderSinceMs = 0;

  leaseUntilMs(node: string): number {
    return this.leases.get(node) ?? Infinity;
  }
  fencedFromMs(node: string, fenceMs: number): number {
    return this.leaseUntilMs(node) + fenceMs;
  }
  report(
    node: string,
    allocations: readonly Partial<ObservedAllocation>[],
    current = true,
    rest: Pick<Parameters<typeof Report.fromPartial>[0], "load" | "images" | "checkpoints"> = {},
  ): void {
    const full = allocations.map((allocation) => ObservedAllocation.fromPartial(allocation));
    this.nodes.set(
      node,
      nodeSeen(Report.fromPartial({ info: sampleNode(node), allocations: full, ...rest }), current),
    );
    this.fresh.add(node);
  }
  migration(
    id: string,
    side: "source" | "target",
    phase: MigrationPhase,
    rest: Parameters<typeof MigrationReport.fromPartial>[0] & { nowMs?: number } = {},
  ): void {
    const { nowMs = 0, ...partial } = rest;
    const report = MigrationReport.fromPartial({ id, phase, ...partial });
    this.migrations.set(id, migrationSeen(this.migrations.get(id), side, report, nowMs));
  }
}
