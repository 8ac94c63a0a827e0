import type { Load, MigrationReport, Report } from "../../proto/gen/godwit/v1/agent.ts";
import { Load as LoadMessage } from "../../proto/gen/godwit/v1/agent.ts";
import { fenceMarginMs } from "../model/lease.ts";
import { Balancer } from "../plan/balance/balancer.ts";
import { LoadBook } from "../plan/balance/load.ts";
import { NodeOrder } from "../plan/placement/node-order.ts";
import {
  migrationSeen,
  nodeSeen,
  observedOn,
  type MigrationSeen,
  type NodeSeen,
  type Volatile,
} from "../plan/volatile.ts";
import type { Cluster } from "../state/cluster.ts";

/** The latest report of every node and what follows from it. Starts empty with every leader. */
export class Reports implements Volatile {
  readonly nodes = new Map<string, NodeSeen>();
  readonly order = new NodeOrder();
  readonly migrations = new Map<string, MigrationSeen>();
  readonly fresh = new Set<string>();
  readonly leaderSinceMs: number;
  readonly balancer: Balancer;
  readonly #leaseMs: number;
  readonly #lastReportMs = new Map<string, number>();
  /** No lease ends before, whatever the reports say: while the leader was deaf, silence proves nothing. */
  #graceUntilMs: number;
  /** Nodes that are no more have been forgotten as of this one. */
  #peersVersion: number | undefined;

  constructor(leaseMs: number, nowMs: number) {
    this.#leaseMs = leaseMs;
    this.leaderSinceMs = nowMs;
    this.balancer = new Balancer(new LoadBook(), nowMs);
    this.#graceUntilMs = nowMs + leaseMs;
  }

  leaseUntilMs(node: string): number {
    return Math.max(this.#graceUntilMs, (this.#lastReportMs.get(node) ?? -Infinity) + this.#leaseMs);
  }
  /** As it is shown: what is waited for on top, because an earlier leader may have renewed it, is nobody's lease. */
  leaseLeftMs(node: string, nowMs: number): number {
    return Math.min(this.#leaseMs, this.leaseUntilMs(node) - nowMs);
  }
  fencedFromMs(node: string, fenceMs: number): number {
    const longerMs = Math.max(0, fenceMs - this.#leaseMs);
    return this.leaseUntilMs(node) + longerMs + fenceMarginMs(this.#leaseMs);
  }
  lastReportMs(node: string): number | undefined {
    return this.#lastReportMs.get(node);
  }
  /** After a time in which no report could be heard. */
  grace(nowMs: number): void {
    this.#graceUntilMs = Math.max(this.#graceUntilMs, nowMs + this.#leaseMs);
  }

  accept(cluster: Cluster, node: string, report: Report, current: boolean, nowMs: number): void {
    this.#lastReportMs.set(node, nowMs);
    this.fresh.add(node);
    this.#tellSources(cluster, node, this.nodes.get(node), report);
    this.nodes.set(node, nodeSeen(report, current, this.nodes.get(node)));
    this.balancer.book.accept(cluster, node, report, nowMs);
    for (const one of report.migrations) this.#acceptMigration(cluster, node, one, nowMs);
  }

  /** Which side a report is of follows from the node that sent it: the roles change with the switch. */
  #acceptMigration(cluster: Cluster, node: string, report: MigrationReport, nowMs: number): void {
    const migration = cluster.state.migrations[report.id];
    if (migration === undefined || !cluster.index.moving.has(report.id)) return;
    if (node !== migration.from && node !== migration.to) return;
    const before = this.migrations.get(report.id);
    const seen = migrationSeen(before, node === migration.from ? "source" : "target", report, nowMs);
    this.migrations.set(report.id, seen);
    if (seen.copy && before?.copy !== true) cluster.touched.add(migration.from);
    const { phase, pageSession } = before?.target ?? {};
    if (node === migration.to && (report.phase !== phase || report.pageSession !== pageSession))
      cluster.touched.add(migration.from);
  }

  /** That the container runs at its target (or ended there) is what the source waits for with its frozen copy. */
  #tellSources(cluster: Cluster, node: string, before: NodeSeen | undefined, report: Report): void {
    for (const { containerId, state } of report.allocations) {
      const migrationId = cluster.state.containers[containerId]?.migrationId;
      if (migrationId === undefined || migrationId === "") continue;
      const migration = cluster.state.migrations[migrationId];
      if (migration?.to === node && observedOn(before, containerId)?.state !== state)
        cluster.touched.add(migration.from);
    }
  }

  /** The node has been sent a newer Desired than its last report knew of. */
  outdate(node: string): void {
    const seen = this.nodes.get(node);
    if (seen?.current === true) this.nodes.set(node, { ...seen, current: false });
  }

  /** Drops what belongs to migrations and nodes that are no more. */
  forget(cluster: Cluster): void {
    for (const id of this.migrations.keys()) if (!cluster.index.moving.has(id)) this.migrations.delete(id);
    if (this.#peersVersion === cluster.peers.version) return;
    this.#peersVersion = cluster.peers.version;
    for (const name of this.nodes.keys())
      if (cluster.state.nodes[name] === undefined) {
        this.nodes.delete(name);
        this.#lastReportMs.delete(name);
      }
  }
}

export const loadOf = (seen: NodeSeen | undefined): Load => seen?.report.load ?? LoadMessage.fromPartial({});
