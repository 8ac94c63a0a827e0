/** The balancer as operators see it: how things stand, what it would do, what it is told to do. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { ObservedAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import type { BalanceNode } from "../../proto/gen/godwit/v1/api.ts";
import type { Command, Migration, Node } from "../../proto/gen/godwit/v1/log.ts";
import type { BalanceSettings } from "../../proto/gen/godwit/v1/spec.ts";
import { balanceFault, mergedSettings } from "../model/balance-settings.ts";
import { adviceOf, frozenBecause } from "../plan/balance/balancer.ts";
import type { ContainerLoad, NodeUsage } from "../plan/balance/load.ts";
import { nodeLoadOf, strainOf } from "../plan/balance/load.ts";
import { missesInARow, settlingNodes } from "../plan/balance/measure.ts";
import { exclusionOf } from "../plan/balance/simulate.ts";
import { command } from "../plan/command.ts";
import { observedOn } from "../plan/volatile.ts";
import type { Balancing, BalanceProposal, BalanceView } from "../public-balance.ts";
import { balanceSettingsOf } from "../state/apply-balance.ts";
import type { Cluster } from "../state/cluster.ts";
import type { Outcome } from "../state/rejection.ts";
import type { Reports } from "./reports.ts";
import { asRequested, idWithin, takeRequestId } from "./request.ts";

const MOVES_SHOWN = 20;
/** As many as may be set. */
const MOST_AT_ONCE = 1_000;
const NOT_LEADING = "this scheduler does not lead: the leader balances";

export interface BalanceOperationsOptions {
  readonly cluster: Cluster;
  readonly propose: (command: Command) => Promise<Outcome>;
  readonly nowMs: () => number;
  readonly newId: () => string;
  /** Undefined: this scheduler does not lead. */
  readonly reports: () => Reports | undefined;
}

export class BalanceOperations implements Balancing {
  readonly #options: BalanceOperationsOptions;

  constructor(options: BalanceOperationsOptions) {
    this.#options = options;
  }

  status(): BalanceView {
    const { cluster, nowMs } = this.#options;
    const { balancing } = cluster.state;
    const settings = balanceSettingsOf(cluster.state);
    const nodes = this.#nodes(settings, nowMs());
    const counted = nodes.filter(({ remark }) => remark === "" || remark === SETTLES || remark === CORDONED);
    const cores = (name: string): number => cluster.state.nodes[name]?.info?.cpuMillis ?? 0;
    const total = counted.reduce((sum, { node }) => sum + cores(node), 0);
    const meanLoad =
      counted.reduce((sum, { load, node }) => sum + load * cores(node), 0) / Math.max(1, total);
    const reports = this.#options.reports();
    return {
      settings: structuredClone(settings),
      pausedReason: balancing?.pausedReason ?? "",
      pausedAtMs: balancing?.pausedAtMs ?? 0,
      idleBecause: reports === undefined ? [NOT_LEADING] : [...reports.balancer.remarks],
      imbalance: Math.max(0, ...counted.map(({ load }) => load - meanLoad)),
      meanLoad,
      nodes,
      advice: structuredClone(balancing?.advice ?? []),
      advisedAtMs: balancing?.advisedAtMs ?? 0,
      moves: this.#moves(),
      missesInARow: missesInARow(cluster).length,
    };
  }

  #moves(): Migration[] {
    const { index, state } = this.#options.cluster;
    return [...index.ended, ...index.moving]
      .flatMap((id) => state.migrations[id] ?? [])
      .filter(({ balance }) => balance !== undefined)
      .slice(-MOVES_SHOWN)
      .reverse();
  }

  #nodes(settings: Readonly<BalanceSettings>, nowMs: number): BalanceNode[] {
    const { cluster } = this.#options;
    const settling = settlingNodes(cluster, settings, nowMs);
    return Object.entries(cluster.state.nodes)
      .map(([name, node]) => this.#node(name, node, settling, nowMs))
      .sort((a, b) => b.load - a.load || (a.node < b.node ? -1 : 1));
  }

  #node(name: string, node: Node, settling: ReadonlySet<string>, nowMs: number): BalanceNode {
    const balancer = this.#options.reports()?.balancer;
    const usage = balancer?.book.node(name);
    const load = usage === undefined || node.info === undefined ? undefined : nodeLoadOf(node.info, usage);
    const isSilent = balancer?.book.isSilent(name, nowMs) ?? true;
    return {
      node: name,
      load: load === undefined ? 0 : strainOf(load),
      cpu: load?.cpu ?? 0,
      memory: load?.memory ?? 0,
      ...(load?.pressure === undefined
        ? {}
        : { cpuPressure: load.pressure.cpu, memoryPressure: load.pressure.memory }),
      hotRounds: balancer?.hot.get(name)?.rounds ?? 0,
      remark:
        exclusionOf(node) ??
        (isSilent ? "does not report" : undefined) ??
        (node.schedulable ? undefined : CORDONED) ??
        (settling.has(name) ? SETTLES : ""),
    };
  }

  async set(settings: BalanceSettings, fields: readonly string[]): Promise<void> {
    const { cluster, propose } = this.#options;
    if (fields.length === 0) throw new GodwitError("invalid", "no setting of the balancer is given");
    const merged = mergedSettings(balanceSettingsOf(cluster.state), settings, fields);
    const fault =
      merged === undefined ? `the balancer has no such setting: ${fields.join(", ")}` : balanceFault(merged);
    if (fault !== undefined) throw new GodwitError("invalid", fault);
    allow(await propose(asRequested(command("balanceSet", { settings: merged }))));
  }

  plan(): BalanceProposal {
    const { moves, remarks } = this.#choice();
    return { moves: moves.map(adviceOf), idleBecause: [...remarks] };
  }

  async run(): Promise<BalanceProposal & { readonly migrationIds: readonly string[] }> {
    const { cluster, newId, nowMs, propose } = this.#options;
    const request = takeRequestId();
    const before = request === undefined ? [] : this.#begunBy(request);
    if (before.length > 0)
      return {
        moves: before.map(({ containerId, containerName, from, to, balance }) => ({
          containerId,
          container: containerName,
          from,
          to,
          forecast: balance,
        })),
        migrationIds: before.map(({ id }) => id),
        idleBecause: [],
      };
    const frozen = frozenBecause(balanceSettingsOf(cluster.state), nowMs());
    if (frozen !== undefined)
      throw new GodwitError("refused", `the balancer may not move anything: ${frozen}`);
    const choice = this.#choice();
    let number = 0;
    const nextId = request === undefined ? newId : () => idWithin(request, number++);
    const starts = this.#reports.balancer.startNow(choice, nextId);
    // Each by itself: the log may have taken some of them when the request is made again.
    const outcomes = await Promise.all(
      starts.map(({ command: start, id }) =>
        propose(request === undefined ? start : { ...start, requestId: id }),
      ),
    );
    // What has become impossible since a moment ago is left out, and said.
    const begun = starts.map(
      ({ id }, at) => outcomes[at] === undefined && cluster.state.migrations[id] !== undefined,
    );
    return {
      moves: choice.moves.map(adviceOf).filter((_, at) => begun[at] === true),
      migrationIds: starts.map(({ id }) => id).filter((_, at) => begun[at] === true),
      idleBecause: [...outcomes.flatMap((outcome) => outcome?.message ?? []), ...choice.remarks],
    };
  }

  /** What an earlier one of the same request has begun. */
  #begunBy(request: string): Migration[] {
    const { migrations } = this.#options.cluster.state;
    return Array.from({ length: MOST_AT_ONCE }, (_, at) => migrations[idWithin(request, at)]).filter(
      (one) => one !== undefined,
    );
  }

  get #reports(): Reports {
    const reports = this.#options.reports();
    if (reports === undefined) throw new GodwitError("unavailable", NOT_LEADING);
    return reports;
  }

  #choice(): ReturnType<Reports["balancer"]["plan"]> {
    const { cluster, nowMs } = this.#options;
    const reports = this.#reports;
    return reports.balancer.plan({ cluster, seen: reports, nowMs: nowMs() });
  }

  usageOf(
    containerId: string,
  ): { readonly observed: ObservedAllocation; readonly load: ContainerLoad | undefined } | undefined {
    const reports = this.#options.reports();
    const allocation = this.#options.cluster.state.containers[containerId]?.allocation;
    const observed = observedOn(reports?.nodes.get(allocation?.node ?? ""), containerId);
    if (observed === undefined || observed.epoch !== allocation?.epoch) return undefined;
    return { observed, load: reports?.balancer.book.container(containerId) };
  }

  nodeUsage(name: string): NodeUsage | undefined {
    return this.#options.reports()?.balancer.book.node(name);
  }
}

const SETTLES = "takes nothing until its last move has settled";
const CORDONED = "cordoned";

const allow = (outcome: Outcome): void => {
  if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
};
