/**
 * The balancer's rounds: what is hot and for how long, what to move, what moves have gained. It keeps between rounds
 * only what a new leader can find out anew. Pure: time and ids are arguments.
 */
import { type Command, type Migration } from "../../../proto/gen/godwit/v1/log.ts";
import {
  BalancePolicy,
  MigrationMode,
  type BalanceAdvice,
  type BalanceSettings,
} from "../../../proto/gen/godwit/v1/spec.ts";
import { isWithin } from "../../model/maintenance-window.ts";
import { balanceSettingsOf } from "../../state/apply-balance.ts";
import { nameOf, type Cluster } from "../../state/cluster.ts";
import { command } from "../command.ts";
import type { Seen } from "../movable.ts";
import { chooseMoves, type BalanceMove, type Choice } from "./choose.ts";
import { strainOf, type LoadBook } from "./load.ts";
import { measureMoves, missesInARow, settlingNodes } from "./measure.ts";
import { Simulation } from "./simulate.ts";

/** A node that was hot stays so until it is this part of the threshold above the mean. */
const COOL_PART = 0.5;
/** Advice that is old is given anew, if it has changed. */
const ADVICE_MS = 600_000;

export interface HotNode {
  readonly rounds: number;
  readonly sinceMs: number;
}

export interface RoundTerms {
  readonly cluster: Cluster;
  readonly seen: Seen;
  readonly nowMs: number;
}

const points = (share: number): string => `${Math.round(share * 100)} points`;

/** Why nothing may be moved now, whoever asks for it. */
export const frozenBecause = (settings: Readonly<BalanceSettings>, nowMs: number): string | undefined => {
  if (settings.freezeUntilMs > nowMs)
    return `nothing is moved until ${new Date(settings.freezeUntilMs).toISOString()} (--freeze-until)`;
  return isWithin(settings.windows, nowMs)
    ? undefined
    : `outside its windows (${settings.windows.join(", ")}; it is ${new Date(nowMs).toISOString()})`;
};

const startOf = ({ container, forecast, from, to, blackoutBudgetMs }: BalanceMove, id: string): Command =>
  command("migrationStarted", {
    id,
    containerId: container.id,
    from,
    to,
    epoch: (container.allocation?.epoch ?? 0) + 1,
    mode: MigrationMode.AUTO,
    blackoutBudgetMs,
    drainId: "",
    bandwidthBytesPerSecond: 0,
    reason: "balance",
    balance: forecast,
  });

export const adviceOf = ({ container, forecast, from, to }: BalanceMove): BalanceAdvice => ({
  containerId: container.id,
  container: nameOf(container),
  from,
  to,
  forecast,
});

export class Balancer {
  readonly book: LoadBook;
  readonly #hot = new Map<string, HotNode>();
  readonly #cold = new Map<string, HotNode>();
  #nextRoundMs: number;
  #remarks: readonly string[] = ["it has not looked yet"];

  constructor(book: LoadBook, nowMs: number) {
    this.book = book;
    this.#nextRoundMs = nowMs;
  }

  get hot(): ReadonlyMap<string, HotNode> {
    return this.#hot;
  }
  /** Why the last round has moved no more than it did. */
  get remarks(): readonly string[] {
    return this.#remarks;
  }

  /** What is to be recorded now; nothing until the next round is due. */
  round(terms: RoundTerms, newId: () => string): Command[] {
    const { cluster, nowMs } = terms;
    if (nowMs < this.#nextRoundMs) return [];
    this.book.forget(cluster);
    const settings = balanceSettingsOf(cluster.state);
    this.#nextRoundMs = nowMs + settings.roundMs;
    const outcomes = measureMoves(cluster, this.book, settings, nowMs);
    const measured = outcomes.map((one) => command("balanceMeasured", one));
    if (settings.policy === BalancePolicy.OFF) {
      this.#hot.clear();
      this.#cold.clear();
      this.#remarks = ["the policy is off"];
      return measured;
    }
    const simulation = this.#simulate(terms);
    this.#judge(simulation, settings, nowMs);
    const choice = this.#choose(terms, simulation, settings, false);
    if (settings.policy === BalancePolicy.RECOMMEND) {
      this.#remarks = ["the policy is recommend", ...choice.remarks];
      return [...measured, ...this.#advise(cluster, choice, nowMs)];
    }
    const pause = this.#pause(cluster, settings);
    const stopped = cluster.state.balancing?.pausedReason || frozenBecause(settings, nowMs);
    this.#remarks = [...(stopped === undefined ? [] : [stopped]), ...choice.remarks];
    // A miss is counted once it is in the log: until then it may be the one that was one too many.
    const hasMissed = outcomes.some(({ outcome }) => outcome.missed);
    if (hasMissed || pause.length > 0 || stopped !== undefined) return [...measured, ...pause];
    return [...measured, ...choice.moves.map((move) => startOf(move, newId()))];
  }

  /** What would be moved now, without waiting for an imbalance to hold. */
  plan(terms: RoundTerms): Choice {
    const settings = balanceSettingsOf(terms.cluster.state);
    return this.#choose(terms, this.#simulate(terms), settings, true);
  }

  startNow(choice: Choice, newId: () => string): { readonly id: string; readonly command: Command }[] {
    return choice.moves.map((move) => {
      const id = newId();
      return { id, command: startOf(move, id) };
    });
  }

  #simulate({ cluster, nowMs }: RoundTerms): Simulation {
    for (const id of cluster.index.moving) {
      const containerId = cluster.state.migrations[id]?.containerId;
      if (containerId !== undefined) this.book.relocate(cluster, containerId);
    }
    return new Simulation(cluster, this.book, nowMs);
  }

  /** Counts for how many rounds each node has been far above the mean, or far below. */
  #judge(simulation: Simulation, settings: Readonly<BalanceSettings>, nowMs: number): void {
    const mean = simulation.meanStrain();
    const { holdRounds, threshold } = settings;
    for (const name of new Set([...this.#hot.keys(), ...this.#cold.keys()]))
      if (simulation.of(name) === undefined)
        for (const counts of [this.#hot, this.#cold]) counts.delete(name);
    for (const load of simulation.loads) {
      const excess = strainOf(load) - mean;
      for (const [counts, value] of [
        [this.#hot, excess],
        [this.#cold, -excess],
      ] as const) {
        const before = counts.get(load.node);
        if (value > threshold)
          counts.set(load.node, { rounds: (before?.rounds ?? 0) + 1, sinceMs: before?.sinceMs ?? nowMs });
        else if (before !== undefined && (before.rounds < holdRounds || value < threshold * COOL_PART))
          counts.delete(load.node);
      }
    }
  }

  #sources(
    simulation: Simulation,
    settings: Readonly<BalanceSettings>,
    nowMs: number,
    isAtOnce: boolean,
  ): { node: string; hotMs: number }[] {
    const mean = simulation.meanStrain();
    const holds = (one: HotNode | undefined): boolean =>
      one !== undefined && one.rounds >= settings.holdRounds;
    const isCold = [...this.#cold.values()].some(holds);
    const excesses = [...simulation.loads].map((load) => ({
      node: load.node,
      excess: strainOf(load) - mean,
    }));
    const isUneven = isAtOnce && excesses.some(({ excess }) => -excess > settings.threshold);
    return excesses
      .filter(
        ({ node, excess }) =>
          holds(this.#hot.get(node)) ||
          (isAtOnce && excess > settings.threshold) ||
          // Nodes that have much less to do than all others take from those that have most.
          ((isCold || isUneven) && excess > 0),
      )
      .sort((a, b) => b.excess - a.excess || (a.node < b.node ? -1 : 1))
      .map(({ node }) => ({ node, hotMs: nowMs - (this.#hot.get(node)?.sinceMs ?? nowMs) }));
  }

  #choose(
    { cluster, nowMs, seen }: RoundTerms,
    simulation: Simulation,
    settings: Readonly<BalanceSettings>,
    isAtOnce: boolean,
  ): Choice {
    if (simulation.size < 2)
      return { moves: [], remarks: ["there are no two nodes that report and are not being drained"] };
    const sources = this.#sources(simulation, settings, nowMs, isAtOnce);
    if (sources.length === 0) return { moves: [], remarks: [this.#evenness(simulation, settings)] };
    const settling = settlingNodes(cluster, settings, nowMs);
    const underWay = new Map<string, number>();
    let own = 0;
    for (const id of cluster.index.moving) {
      const migration: Migration | undefined = cluster.state.migrations[id];
      if (migration === undefined) continue;
      if (migration.balance !== undefined) own += 1;
      for (const node of [migration.from, migration.to]) underWay.set(node, (underWay.get(node) ?? 0) + 1);
    }
    return chooseMoves({
      cluster,
      seen,
      book: this.book,
      simulation,
      settings,
      nowMs,
      sources,
      closed: (node) => (settling.has(node) ? "settles after a move" : undefined),
      underWay,
      slots: Math.max(0, settings.parallel - own),
    });
  }

  #evenness(simulation: Simulation, { holdRounds, threshold }: Readonly<BalanceSettings>): string {
    const waiting = [...this.#hot].find(([, { rounds }]) => rounds < holdRounds);
    if (waiting !== undefined)
      return `${waiting[0]} has been hot for ${waiting[1].rounds} of ${holdRounds} rounds`;
    const mean = simulation.meanStrain();
    const most = Math.max(0, ...[...simulation.loads].map((load) => strainOf(load) - mean));
    return `even enough: no node is ${points(threshold)} from the mean (the hottest is ${points(most)} above it)`;
  }

  #pause(cluster: Cluster, { misses }: Readonly<BalanceSettings>): Command[] {
    if (misses === 0 || (cluster.state.balancing?.pausedReason ?? "") !== "") return [];
    const missed = missesInARow(cluster);
    if (missed.length < misses) return [];
    const said = missed.slice(0, misses).map(({ balance, balanceOutcome, containerName, to }) => {
      const expected = points(balance?.predictedGain ?? 0);
      const gained = balanceOutcome?.remark || points(balanceOutcome?.actualGain ?? 0);
      return `${containerName} to ${to} ${expected}, ${gained}`;
    });
    const reason = `${misses} predictions in a row were missed (expected, and gained: ${said.join("; ")}); "godwit balance set --policy auto" lets it go on`;
    return [command("balancePaused", { reason })];
  }

  /** Given once, and again when there is something else to say that is not just as good. */
  #advise({ state }: Cluster, { moves }: Choice, nowMs: number): Command[] {
    const given = state.balancing?.advice ?? [];
    const holds = given.every(
      ({ containerId, from }) => state.containers[containerId]?.allocation?.node === from,
    );
    // What was advised and is being done is no news.
    const isDone = given.some(({ containerId }) => (state.containers[containerId]?.migrationId ?? "") !== "");
    if (moves.length === 0 && (given.length === 0 || (holds && isDone))) return [];
    const isSame =
      moves.length === given.length &&
      moves.every(({ container, to }) =>
        given.some((one) => one.containerId === container.id && one.to === to),
      );
    const isFresh = nowMs - (state.balancing?.advisedAtMs ?? 0) < ADVICE_MS;
    if (isSame || (given.length > 0 && moves.length > 0 && holds && isFresh)) return [];
    return [command("balanceAdvised", { moves: moves.map(adviceOf) })];
  }
}
