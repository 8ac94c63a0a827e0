import {
  MigrationReport,
  ObservedAllocation,
  Report,
  type MigrationPhase,
} from "../../proto/gen/godwit/v1/agent.ts";
import { NodePicture, type News } from "../plan/node-seen.ts";
import { migrationSeen, type MigrationSeen, type Volatile } from "../plan/volatile.ts";
import { sampleNode } from "./sample.ts";

/** Reports as a test wants them. */
export class FakeVolatile implements Volatile {
  readonly nodes = new Map<string, NodePicture>();
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
    rest: Pick<
      Parameters<typeof Report.fromPartial>[0],
      "load" | "images" | "checkpoints" | "fenceClosed"
    > = {},
  ): News {
    const full = allocations.map((allocation) => ObservedAllocation.fromPartial(allocation));
    const picture = this.nodes.get(node) ?? new NodePicture();
    const news = picture.take(
      Report.fromPartial({ info: sampleNode(node), allocations: full, ...rest }),
      current,
    );
    this.nodes.set(node, picture);
    this.fresh.add(node);
    return news;
  }
  /** The log has changed the container, which the node has, or is to have. */
  reopen(node: string, containerId: string): void {
    this.nodes.get(node)?.open.add(containerId);
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
