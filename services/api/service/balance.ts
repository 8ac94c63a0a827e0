/** Calls about the balancer, and about what containers and nodes use. */
import type {
  BalancePlan,
  BalanceReport,
  ListStatsRequest,
  MigrationInfo,
  SetBalanceRequest,
  StatsReport,
} from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { findContainer } from "../find.ts";
import { migrationInfo } from "../view/migration.ts";
import { containerStats, nodeStats } from "../view/stats.ts";

export class BalanceService {
  readonly #scheduler: Scheduler;
  readonly #nowMs: () => number;

  constructor(scheduler: Scheduler, nowMs: () => number) {
    this.#scheduler = scheduler;
    this.#nowMs = nowMs;
  }

  async status(): Promise<BalanceReport> {
    const view = this.#scheduler.balancing.status();
    const runtime = this.#scheduler.runtime();
    return {
      ...view,
      idleBecause: [...view.idleBecause],
      nodes: [...view.nodes],
      advice: [...view.advice],
      moves: view.moves.map((record): MigrationInfo => migrationInfo(record, runtime.migration(record.id))),
    };
  }

  async set(request: SetBalanceRequest): Promise<BalanceReport> {
    if (request.settings === undefined) throw new GodwitError("invalid", "the request has no settings");
    await this.#scheduler.balancing.set(request.settings, request.fields);
    return this.status();
  }

  async plan(): Promise<BalancePlan> {
    const { idleBecause, moves } = this.#scheduler.balancing.plan();
    return { moves: [...moves], idleBecause: [...idleBecause], migrationIds: [] };
  }

  async run(): Promise<BalancePlan> {
    const { idleBecause, migrationIds, moves } = await this.#scheduler.balancing.run();
    return { moves: [...moves], idleBecause: [...idleBecause], migrationIds: [...migrationIds] };
  }

  async stats(request: ListStatsRequest): Promise<StatsReport> {
    const { balancing } = this.#scheduler;
    const state = this.#scheduler.state();
    const runtime = this.#scheduler.runtime();
    const only = request.nameOrId === "" ? undefined : findContainer(state, request.nameOrId);
    const containers = only === undefined ? Object.values(state.containers) : [only];
    const home = only?.allocation?.node;
    const counts = new Map<string, number>();
    for (const { allocation } of only === undefined ? containers : Object.values(state.containers))
      if (allocation !== undefined) counts.set(allocation.node, (counts.get(allocation.node) ?? 0) + 1);
    return {
      atMs: this.#nowMs(),
      containers: containers
        .map((container) => containerStats(state, container, balancing.usageOf(container.id)))
        .sort((a, b) => (b.cpuMillis ?? -1) - (a.cpuMillis ?? -1) || (a.name < b.name ? -1 : 1)),
      nodes: Object.entries(state.nodes)
        .filter(([name]) => only === undefined || name === home)
        .map(([name, node]) =>
          nodeStats(name, node, counts.get(name) ?? 0, runtime.node(name)?.load, balancing.nodeUsage(name)),
        )
        .sort((a, b) => a.node.localeCompare(b.node, "en", { numeric: true })),
    };
  }
}
