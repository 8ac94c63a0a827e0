/** What a move will cost, played through round by round with the rule that the move itself follows. Pure. */
import { DirtyCurve, type DirtySample } from "./dirty-curve.ts";
import { departureMs, type MoveCosts, type MoveSize, overheadMs, scanMs } from "./move-costs.ts";
import { type CopiedRound, type CopyDecision, decideAfterRound } from "./stop-rule.ts";

const PAGE_BYTES = 4096;
/** The rule ends every game before this. */
const MOST_ROUNDS = 100;

/** A running container, as it was measured. */
export interface MoveSubject {
  /** Pages of its own, zero pages included. */
  readonly memoryPages: number;
  readonly processes: number;
  readonly filesystemBytes: number;
  readonly dirty: readonly DirtySample[];
  /** Share of the memory's bytes that is left after compression, 0 to 1. */
  readonly compressedShare: number;
}

export interface MoveTerms {
  readonly subject: MoveSubject;
  /** Of the source. */
  readonly costs: MoveCosts;
  /** As the target expects it: from the last byte to the first instruction. */
  readonly arrivalMs: number;
  /** Memory that the source gets across, before compression. */
  readonly bytesPerSecond: number;
  /** "precopy" with rounds while it runs, "checkpoint" without; "postcopy": memory goes over when it runs at the target. */
  readonly mode: "precopy" | "checkpoint" | "postcopy";
  readonly budgetMs: number;
  readonly canThrottle: boolean;
}

export interface Forecast {
  /** The last one, of the frozen container, included. */
  readonly rounds: number;
  readonly blackoutMs: number;
  readonly totalMs: number;
  readonly memoryBytes: number;
  /** Memory and files before compression. */
  readonly copiedBytes: number;
  readonly sentBytes: number;
  readonly dirtyBytesPerSecond: number;
  readonly cpuPercent: number;
  /** The budget cannot be kept. */
  readonly isRefused: boolean;
}

/** What the stop rule has to know of the cost of a freeze. */
export interface FreezeCosts {
  readonly standstillMs: number;
  readonly pageMs: number;
}

export function freezeCosts(
  size: MoveSize,
  { costs, arrivalMs, bytesPerSecond }: Pick<MoveTerms, "costs" | "arrivalMs" | "bytesPerSecond">,
): FreezeCosts {
  const standstill = departureMs(costs, size, 0, bytesPerSecond);
  return {
    standstillMs: standstill + arrivalMs,
    pageMs: (departureMs(costs, size, 1000 * PAGE_BYTES, bytesPerSecond) - standstill) / 1000,
  };
}

export function forecastMove(terms: MoveTerms): Forecast {
  const { subject, costs, bytesPerSecond, budgetMs } = terms;
  const { memoryPages, dirty } = subject;
  const memoryBytes = memoryPages * PAGE_BYTES;
  const curve = new DirtyCurve(dirty, memoryPages);
  const freeze = freezeCosts({ memoryBytes, processes: subject.processes }, terms);
  const rounds: CopiedRound[] = [];
  let cpuPercent = 100;
  const isPostcopy = terms.mode === "postcopy";
  let decision: CopyDecision = {
    kind: "freeze",
    expectedMs: freeze.standstillMs + (isPostcopy ? 0 : memoryPages * freeze.pageMs),
  };
  if (terms.mode === "precopy") {
    const decide = (): CopyDecision =>
      decideAfterRound({ rounds, curve, budgetMs, canThrottle: terms.canThrottle, ...freeze });
    for (decision = decide(); rounds.length < MOST_ROUNDS; decision = decide()) {
      if (decision.kind === "freeze" || decision.kind === "refuse") break;
      if (decision.kind === "throttle") cpuPercent = decision.cpuPercent;
      const before = rounds.at(-1);
      const changedPages =
        before === undefined
          ? memoryPages
          : curve.pagesAfter((before.tookMs * (before.cpuPercent ?? 100)) / 100);
      const tookMs = scanMs(costs, memoryBytes) + ((changedPages * PAGE_BYTES) / bytesPerSecond) * 1000;
      rounds.push({ pages: memoryPages, changedPages, tookMs, cpuPercent });
    }
  }
  const last = rounds.at(-1);
  const unsentPages = isPostcopy ? 0 : memoryPages;
  const frozenPages =
    last === undefined ? unsentPages : curve.pagesAfter((last.tookMs * (last.cpuPercent ?? 100)) / 100);
  const blackoutMs = freeze.standstillMs + frozenPages * freeze.pageMs;
  const followingPages = isPostcopy ? memoryPages : 0;
  const copiedPages = rounds.reduce((sum, round) => sum + round.changedPages, frozenPages + followingPages);
  return {
    rounds: rounds.length + 1,
    blackoutMs,
    totalMs:
      overheadMs(costs) +
      ((subject.filesystemBytes + followingPages * PAGE_BYTES) / bytesPerSecond) * 1000 +
      rounds.reduce((sum, round) => sum + round.tookMs, blackoutMs),
    memoryBytes,
    copiedBytes: Math.round(copiedPages * PAGE_BYTES + subject.filesystemBytes),
    sentBytes: Math.round(copiedPages * PAGE_BYTES * subject.compressedShare + subject.filesystemBytes),
    dirtyBytesPerSecond: curve.pagesAfter(1_000) * PAGE_BYTES,
    cpuPercent,
    isRefused: decision.kind === "refuse" || (budgetMs > 0 && blackoutMs > budgetMs),
  };
}

/** In an operator's words; `what` begins the sentence. */
export const budgetRefusal = (what: string, neededMs: number, budgetMs: number): string =>
  `${what}: it would need to stand still for about ${Math.ceil(neededMs)} ms, its blackout budget is ${budgetMs} ms; ` +
  `allow more with --blackout-budget, or try again when the container and the hosts have less to do`;
