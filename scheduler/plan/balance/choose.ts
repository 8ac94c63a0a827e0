/** Which containers to move off hot nodes, and where to. Pure. */
import type { Container } from "../../../proto/gen/godwit/v1/log.ts";
import {
  MigrationPolicy,
  type BalanceForecast,
  type BalanceSettings,
} from "../../../proto/gen/godwit/v1/spec.ts";
import { formatSeconds } from "../../model/quantity.ts";
import { limitsOf, type Cluster } from "../../state/cluster.ts";
import { hasRoom } from "../../state/capacity.ts";
import { stayCheck, targetRefusals, type Seen } from "../movable.ts";
import { PlannedUse } from "../placement.ts";
import { coreSecondsOf, MoveHistory, type MoveCost } from "./cost.ts";
import { loadOf, strainOf, type ContainerLoad, type LoadBook, type NodeLoad } from "./load.ts";
import type { Effect, Simulation } from "./simulate.ts";

/** So many of the coldest nodes are looked at as targets, and hot ones for each move that may begin. */
const TARGETS_LOOKED_AT = 8;
const SOURCES_LOOKED_AT = 4;
/** What a target may be above the mean after a move, as a part of the threshold: it must not become hot itself. */
const TARGET_PART = 0.75;
/** Smaller gains are not worth the words; whether larger ones are worth their moves is another question. */
const LEAST_GAIN = 0.002;
/** A move must still be a gain if the two nodes' loads are off by so many times what they are likely to be off by. */
const NOISE_TIMES = 3;
/** Nobody is taken back where the balancer took it from within so many cool-downs: what was hot there may be again. */
const RETURN_TIMES = 3;
/** After a move, or an attempt that failed, whatever the cool-down is. */
const LEAST_REST_MS = 5_000;

export interface BalanceMove {
  readonly container: Container;
  readonly from: string;
  readonly to: string;
  readonly blackoutBudgetMs: number;
  readonly forecast: BalanceForecast;
}

export interface ChooseInputs {
  readonly cluster: Cluster;
  readonly seen: Seen;
  readonly book: LoadBook;
  readonly simulation: Simulation;
  readonly settings: Readonly<BalanceSettings>;
  readonly nowMs: number;
  /** Nodes to relieve, hottest first, and how long each has been hot. */
  readonly sources: readonly { readonly node: string; readonly hotMs: number }[];
  /** Why a node takes nothing now. */
  readonly closed: (node: string) => string | undefined;
  /** Moves under way by node, of any kind. */
  readonly underWay: ReadonlyMap<string, number>;
  /** Moves that may begin now. */
  readonly slots: number;
}

export interface Choice {
  readonly moves: readonly BalanceMove[];
  /** Why the nodes that are still hot are not relieved further. */
  readonly remarks: readonly string[];
}

interface Option {
  readonly container: Container;
  readonly load: ContainerLoad;
  readonly to: NodeLoad;
  readonly effect: Effect;
  readonly cost: MoveCost;
  readonly benefitCoreSeconds: number;
  readonly costCoreSeconds: number;
}

const netOf = ({ benefitCoreSeconds, costCoreSeconds }: Option, gainOverCost: number): number =>
  benefitCoreSeconds - gainOverCost * costCoreSeconds;

/** The smaller of the two that are set; 0: none is. */
export const budgetOf = (container: Container, { blackoutBudgetMs }: Readonly<BalanceSettings>): number => {
  const own = container.spec?.blackoutBudgetMs ?? 0;
  return own === 0 || blackoutBudgetMs === 0 ? own || blackoutBudgetMs : Math.min(own, blackoutBudgetMs);
};

class Chooser {
  readonly #inputs: ChooseInputs;
  readonly #planned: PlannedUse;
  readonly #history: MoveHistory;
  readonly #endedAtMs = new Map<string, number>();
  readonly #chosen = new Set<string>();
  readonly #underWay: Map<string, number>;
  readonly #meanStrain: number;

  constructor(inputs: ChooseInputs) {
    const { cluster } = inputs;
    this.#inputs = inputs;
    this.#planned = new PlannedUse(cluster);
    this.#history = new MoveHistory(cluster);
    this.#underWay = new Map(inputs.underWay);
    this.#meanStrain = inputs.simulation.meanStrain();
    for (const id of cluster.index.ended) {
      const migration = cluster.state.migrations[id];
      if (migration !== undefined) this.#endedAtMs.set(migration.containerId, migration.endedAtMs);
    }
  }

  choose(): Choice {
    const { settings, slots, sources } = this.#inputs;
    const moves: BalanceMove[] = [];
    const remarks: string[] = [];
    // One move of each source at a time, so that a single hot node does not take every slot.
    let open = sources.slice(0, Math.max(1, slots) * SOURCES_LOOKED_AT);
    while (open.length > 0 && moves.length < slots) {
      const next: typeof open = [];
      for (const source of open) {
        if (moves.length >= slots) break;
        if ((this.#underWay.get(source.node) ?? 0) >= settings.parallelPerNode) {
          if (!moves.some(({ from, to }) => from === source.node || to === source.node))
            remarks.push(`${source.node} has as many moves under way as it may have`);
          continue;
        }
        const found = this.#best(source.node, source.hotMs);
        if (typeof found === "string") remarks.push(found);
        else {
          moves.push(this.#take(source.node, found));
          next.push(source);
        }
      }
      open = next;
    }
    if (slots <= 0) remarks.push("as many moves are under way as there may be");
    return { moves, remarks };
  }

  #take(from: string, option: Option): BalanceMove {
    const { simulation, settings } = this.#inputs;
    const { container, load, to } = option;
    const source = simulation.of(from);
    const forecast: BalanceForecast = {
      fromLoad: source === undefined ? 0 : loadOf(source),
      toLoad: loadOf(to),
      cpuMillis: load.cpuMillis,
      memoryBytes: Math.round(load.memoryBytes),
      predictedGain: option.effect.gain,
      blackoutMs: option.cost.blackoutMs,
      totalMs: option.cost.totalMs,
      sentBytes: Math.round(option.cost.sentBytes),
      benefitCoreSeconds: option.benefitCoreSeconds,
      costCoreSeconds: option.costCoreSeconds,
    };
    simulation.move(container, load, from, to.node);
    this.#planned.add(to.node, container);
    this.#chosen.add(container.id);
    for (const node of [from, to.node]) this.#underWay.set(node, (this.#underWay.get(node) ?? 0) + 1);
    return { container, from, to: to.node, blackoutBudgetMs: budgetOf(container, settings), forecast };
  }

  /** The nodes with the least load that may take something, coldest first. */
  #targets(from: string): NodeLoad[] {
    const { closed, cluster, settings, simulation } = this.#inputs;
    const coldest: NodeLoad[] = [];
    for (const load of simulation.loads) {
      const last = coldest.at(-1);
      if (coldest.length === TARGETS_LOOKED_AT && last !== undefined && strainOf(load) >= strainOf(last))
        continue;
      if (load.node === from || strainOf(load) >= this.#meanStrain) continue;
      if (cluster.state.nodes[load.node]?.schedulable !== true || closed(load.node) !== undefined) continue;
      if ((this.#underWay.get(load.node) ?? 0) >= settings.parallelPerNode) continue;
      coldest.push(load);
      coldest.sort((a, b) => strainOf(a) - strainOf(b) || (a.node < b.node ? -1 : 1));
      if (coldest.length > TARGETS_LOOKED_AT) coldest.pop();
    }
    return coldest;
  }

  /** The move off the node that is worth most, or why there is none. */
  #best(from: string, hotMs: number): Option | string {
    const { cluster, settings, simulation } = this.#inputs;
    const source = simulation.of(from);
    if (source === undefined) return `${from} does not report`;
    const targets = this.#targets(from);
    if (targets.length === 0) return `${from} is hot, and no other node may take anything now`;
    const tally = new Map<string, number>();
    const count = (why: string): void => void tally.set(why, (tally.get(why) ?? 0) + 1);
    const options: Option[] = [];
    for (const id of cluster.index.onNode.get(from) ?? []) {
      const container = cluster.state.containers[id];
      if (container === undefined || this.#chosen.has(id)) continue;
      const found = this.#optionsOf(container, source, targets, hotMs);
      if (typeof found === "string") count(found);
      else options.push(...found);
    }
    options.sort(
      (a, b) =>
        netOf(b, settings.gainOverCost) - netOf(a, settings.gainOverCost) ||
        (a.container.id < b.container.id ? -1 : 1),
    );
    const refused = new Set<string>();
    for (const option of options) {
      const why = this.#refusal(option);
      if (why === undefined) return option;
      if (!refused.has(option.container.id)) count(why);
      refused.add(option.container.id);
    }
    const reasons = [...tally]
      .toSorted(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))
      .map(([why, times]) => `${times} ${why}`);
    return `${from} is hot, but of its containers ${reasons.join(", ") || "none is there to be moved"}`;
  }

  #optionsOf(
    container: Container,
    source: NodeLoad,
    targets: readonly NodeLoad[],
    hotMs: number,
  ): Option[] | string {
    const { book, nowMs, settings, simulation } = this.#inputs;
    const load = book.container(container.id);
    const policy = container.spec?.migration;
    if (container.migrationId !== "") return "under way";
    if (container.removing || container.retiring) return "about to be removed";
    if (policy === MigrationPolicy.NEVER || policy === MigrationPolicy.COLD) return "not to be moved live";
    if (load === undefined || load.watchedMs < settings.smoothingMs) return "not watched for long enough";
    if (this.#restsUntilMs(container) > nowMs)
      return `moved (or tried) within the last ${formatSeconds(settings.coolDownMs)}`;
    const cost = this.#history.expect(container.id, load.memoryBytes);
    const budgetMs = budgetOf(container, settings);
    if (budgetMs > 0 && cost.blackoutMs > budgetMs) return "with a blackout beyond the budget";
    const stayMs = Math.min(
      Math.max(settings.expectedStayMs, hotMs),
      this.#history.stayMs(container.id) ?? Infinity,
    );
    const options: Option[] = [];
    const left = this.#leftLately(container.id);
    let isUseful = false;
    for (const to of targets) {
      if (left.has(to.node)) continue;
      const effect = simulation.effect(container, load, source, to);
      if (!this.#isEven(effect, Math.hypot(source.noise, to.noise))) continue;
      isUseful = true;
      const benefitCoreSeconds = (effect.relief * stayMs) / 1_000;
      const costCoreSeconds = coreSecondsOf(cost, load.cpuMillis, [strainOf(source), strainOf(to)]);
      const option = { container, load, to, effect, cost, benefitCoreSeconds, costCoreSeconds };
      if (netOf(option, settings.gainOverCost) > 0) options.push(option);
    }
    if (options.length > 0) return options;
    return isUseful ? "not worth what a move costs" : "would not even the load";
  }

  /** Better for the hotter of the two by more than noise, and the target does not become the next hot node. */
  #isEven({ gain, gainIfOff, relief, to }: Effect, noise: number): boolean {
    const { threshold } = this.#inputs.settings;
    return (
      relief > 0 &&
      gain >= LEAST_GAIN &&
      gainIfOff(noise * NOISE_TIMES) > 0 &&
      strainOf(to) <= this.#meanStrain + threshold * TARGET_PART
    );
  }

  #leftLately(containerId: string): ReadonlySet<string> {
    const { nowMs, settings } = this.#inputs;
    const sinceMs = nowMs - RETURN_TIMES * settings.coolDownMs;
    const moves = this.#history.of(containerId);
    return new Set(
      moves
        .filter(({ balance, switchedAtMs }) => balance !== undefined && switchedAtMs > sinceMs)
        .map(({ from }) => from),
    );
  }

  /** It is left alone after it has moved, or failed to. An allocation of a later epoch than the first is younger than the container. */
  #restsUntilMs({ allocation, id }: Container): number {
    const placedAtMs = (allocation?.epoch ?? 1) > 1 ? allocation?.placedAtMs : undefined;
    const { coolDownMs } = this.#inputs.settings;
    return Math.max(
      (placedAtMs ?? -Infinity) + coolDownMs,
      (this.#endedAtMs.get(id) ?? -Infinity) + Math.max(coolDownMs, LEAST_REST_MS),
    );
  }

  /** What the filters say, which cost more than all that was asked before. */
  #refusal({ container, to }: Option): string | undefined {
    const { cluster, seen } = this.#inputs;
    if (stayCheck(cluster, seen, container, false) !== undefined) return "cannot be moved now";
    if (targetRefusals(cluster, seen, container, to.node).length > 0) return "taken by no colder node";
    const node = cluster.state.nodes[to.node];
    return node !== undefined && hasRoom(node, this.#planned.of(to.node), limitsOf(container))
      ? undefined
      : "without room on colder nodes";
  }
}

export const chooseMoves = (inputs: ChooseInputs): Choice => new Chooser(inputs).choose();
