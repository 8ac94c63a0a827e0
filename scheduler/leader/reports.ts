import type { Load, MigrationReport, Report } from "../../proto/gen/godwit/v1/agent.ts";
import { Load as LoadMessage } from "../../proto/gen/godwit/v1/agent.ts";
import { fenceMarginMs } from "../model/lease.ts";
import { Balancer } from "../plan/balance/balancer.ts";
import { LoadBook } from "../plan/balance/load.ts";
import { NodeOrder } from "../plan/placement/node-order.ts";
import { NodePicture, type NodeSeen } from "../plan/node-seen.ts";
import { migrationSeen, observedOn, type MigrationSeen, type Volatile } from "../plan/volatile.ts";
import type { Cluster } from "../state/cluster.ts";
import { touchNode } from "../state/touched.ts";

/** What every node has reported and what follows from it. Starts empty with every leader. */
export class Reports implements Volatile {
  readonly nodes = new Map<string, NodePicture>();
  readonly order = new NodeOrder({ follows: true });
  readonly migrations = new Map<string, MigrationSeen>();
  readonly fresh = new Set<string>();
  readonly leaderSinceMs: number;
  readonly balancer: Balancer;
  readonly #leaseMs: number;
  readonly #lastReportMs = new Map<string, number>();
  /** As they were when nodes were last forgotten. */
  #peers: Cluster["peers"] | undefined;
  #peersVersion = 0;
  /** Of those few that have ended and are waited with. */
  readonly #restartsAtMs = new Map<string, number>();
  /** No lease ends before, whatever the reports say: while the leader was deaf, silence proves nothing. */
  #graceUntilMs: number;

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

  /**
   * Takes in a report that is full or continues what is known of the node, at the cost of what is in it. True: there is
   * something in it for the planners.
   */
  accept(cluster: Cluster, node: string, report: Report, current: boolean, nowMs: number): boolean {
    this.#lastReportMs.set(node, nowMs);
    this.fresh.add(node);
    cluster.altered.add(node);
    const known = this.nodes.get(node);
    const picture = known ?? new NodePicture();
    this.#tellSources(cluster, node, known, report);
    const wasCurrent = picture.current;
    const { fenceClosed, fenceFault, fenceMs } = picture.report;
    const news = picture.take(report, current);
    if (known === undefined) this.nodes.set(node, picture);
    // What the log says to be there, and is not.
    if (report.base === 0) this.reopen(node, cluster.index.onNode.get(node) ?? []);
    for (const { containerId, restartInMs } of news.listed)
      if (restartInMs > 0) this.#restartsAtMs.set(containerId, nowMs + restartInMs);
      else this.#restartsAtMs.delete(containerId);
    this.balancer.book.accept(cluster, node, { info: picture.info, load: report.load, ...news }, nowMs);
    for (const one of report.migrations) this.#acceptMigration(cluster, node, one, nowMs);
    if (fenceClosed !== report.fenceClosed) this.#tellSourcesOfFence(cluster, node);
    return (
      report.base === 0 ||
      picture.open.size > 0 ||
      current !== wasCurrent ||
      fenceMs !== report.fenceMs ||
      fenceFault !== report.fenceFault ||
      fenceClosed !== report.fenceClosed ||
      report.imagesChanged ||
      report.migrations.length + report.checkpoints.length + report.removedCheckpoints.length > 0
    );
  }

  /** What is seen of these containers is to be compared with the log once more: that has changed. */
  reopen(node: string, containers: Iterable<string>): void {
    const open = this.nodes.get(node)?.open;
    if (open !== undefined) for (const id of containers) open.add(id);
  }

  /** Until the container is started again by itself; 0: it is not about to be. */
  restartInMs(containerId: string, nowMs: number): number {
    const atMs = this.#restartsAtMs.get(containerId);
    return atMs === undefined ? 0 : Math.max(1, atMs - nowMs);
  }

  /** Which side a report is of follows from the node that sent it: the roles change with the switch. */
  #acceptMigration(cluster: Cluster, node: string, report: MigrationReport, nowMs: number): void {
    const migration = cluster.state.migrations[report.id];
    if (migration === undefined || !cluster.index.moving.has(report.id)) return;
    if (node !== migration.from && node !== migration.to) return;
    const before = this.migrations.get(report.id);
    const seen = migrationSeen(before, node === migration.from ? "source" : "target", report, nowMs);
    this.migrations.set(report.id, seen);
    const { phase, pageSession } = before?.target ?? {};
    const isTold =
      (seen.copy && before?.copy !== true) ||
      (node === migration.to && (report.phase !== phase || report.pageSession !== pageSession));
    if (isTold) touchNode(cluster, migration.from, { container: migration.containerId });
  }

  /** That the container runs at its target (or ended there) is what the source waits for with its frozen copy. */
  #tellSources(cluster: Cluster, node: string, before: NodeSeen | undefined, report: Report): void {
    for (const { containerId, state } of report.allocations) {
      const migrationId = cluster.state.containers[containerId]?.migrationId;
      if (migrationId === undefined || migrationId === "") continue;
      const migration = cluster.state.migrations[migrationId];
      if (migration?.to === node && observedOn(before, containerId)?.state !== state)
        touchNode(cluster, migration.from, { container: containerId });
    }
  }

  /** Nor do they let go of anything that stands still at its target. */
  #tellSourcesOfFence(cluster: Cluster, node: string): void {
    for (const id of cluster.index.moving) {
      const migration = cluster.state.migrations[id];
      if (migration?.to === node) touchNode(cluster, migration.from, { container: migration.containerId });
    }
  }

  /** The node has been sent a newer Desired than its last report knew of. */
  outdate(node: string): void {
    const seen = this.nodes.get(node);
    if (seen !== undefined) seen.current = false;
  }

  /** Drops what belongs to migrations and nodes that are no more. */
  forget(cluster: Cluster): void {
    for (const id of this.migrations.keys()) if (!cluster.index.moving.has(id)) this.migrations.delete(id);
    for (const id of this.#restartsAtMs.keys())
      if (cluster.state.containers[id] === undefined) this.#restartsAtMs.delete(id);
    // Nodes that are no more were known to all others.
    const { peers } = cluster;
    if (peers === this.#peers && peers.version === this.#peersVersion) return;
    this.#peers = peers;
    this.#peersVersion = peers.version;
    for (const name of this.nodes.keys())
      if (cluster.state.nodes[name] === undefined) {
        this.nodes.delete(name);
        this.#lastReportMs.delete(name);
      }
  }
}

export const loadOf = (seen: NodeSeen | undefined): Load => seen?.report.load ?? LoadMessage.fromPartial({});
