/**
 * What comes next while memory is copied and the container runs: one more round, the freeze, a container that gets
 * less CPU time, or a refusal. The agent asks after each round, and the forecast plays the same game with itself. Pure.
 */
import type { DirtyCurve } from "./dirty-curve.ts";

export interface CopiedRound {
  /** Pages that were looked at, and of them those that were sent because they had changed. */
  readonly pages: number;
  readonly changedPages: number;
  readonly tookMs: number;
  /** Of the CPU time that the container used before the move, what it was left with meanwhile; absent: all. */
  readonly cpuPercent?: number;
}

export interface CopyView {
  readonly rounds: readonly CopiedRound[];
  /** As sampled before the first round. */
  readonly curve?: DirtyCurve;
  /** Distinct pages written since the last round began, where the kernel tells. */
  readonly pendingPages?: number;
  /** Freeze to first instruction if no page had changed. */
  readonly standstillMs: number;
  /** What each changed page adds. */
  readonly pageMs: number;
  /** 0: none. */
  readonly budgetMs: number;
  /** False: a mode that leaves the container its pace, or a host that cannot slow it down. */
  readonly canThrottle: boolean;
}

export type CopyDecision =
  | { readonly kind: "copy" }
  | { readonly kind: "freeze"; readonly expectedMs: number }
  | { readonly kind: "throttle"; readonly cpuPercent: number; readonly expectedMs: number }
  | { readonly kind: "refuse"; readonly expectedMs: number };

const PAGE_BYTES = 4096;
/** What is left then is sent faster than CRIU starts. */
const SMALL_CHANGE_PAGES = (2 * 1024 * 1024) / PAGE_BYTES;
/** Another round has to shrink what is left by this much to be worth its time. */
const WORTHWHILE = 0.7;
/** At one pace of the container. */
export const MAX_ROUNDS = 5;
/** Without a budget, a container is slowed down only to save its clients more than this. */
const UNBUDGETED_GOAL_MS = 300;
/** What is left is an estimate: a budget is kept with some room. */
const CAUTION = 0.85;
/** Slower than this, a container is not running in its clients' eyes either. */
const LEAST_CPU_PERCENT = 5;

export function decideAfterRound(view: CopyView): CopyDecision {
  const { rounds, standstillMs, pageMs, budgetMs } = view;
  const last = rounds.at(-1);
  // No copying can help.
  if (budgetMs > 0 && standstillMs > budgetMs) return { kind: "refuse", expectedMs: standstillMs };
  if (last === undefined) return { kind: "copy" };
  const left = remainingPages(view);
  const expectedMs = standstillMs + left * pageMs;
  const goalMs =
    budgetMs > 0
      ? standstillMs + CAUTION * (budgetMs - standstillMs)
      : Math.max(UNBUDGETED_GOAL_MS, 2 * standstillMs);
  const fits = expectedMs <= goalMs;
  const cpuPercent = last.cpuPercent ?? 100;
  const atThisPace = rounds.filter((round) => (round.cpuPercent ?? 100) === cpuPercent);
  if (fits && left <= SMALL_CHANGE_PAGES) return { kind: "freeze", expectedMs };
  if (isShrinking(rounds, left) && atThisPace.length < MAX_ROUNDS) return { kind: "copy" };
  if (fits) return { kind: "freeze", expectedMs };
  if (view.canThrottle && cpuPercent > LEAST_CPU_PERCENT) {
    const room = (goalMs - standstillMs) / Math.max(pageMs, Number.EPSILON);
    // Half of its pace at most: a little less than what is needed would cost a round for nothing.
    const wanted = Math.floor(cpuPercent * Math.min(0.5, (CAUTION * room) / Math.max(1, left)));
    return { kind: "throttle", cpuPercent: Math.max(LEAST_CPU_PERCENT, wanted), expectedMs };
  }
  if (budgetMs > 0 && expectedMs > budgetMs) return { kind: "refuse", expectedMs };
  return { kind: "freeze", expectedMs };
}

/** Whether the next round promises to leave less than this one did. */
function isShrinking(rounds: readonly CopiedRound[], left: number): boolean {
  const last = rounds.at(-1);
  const before = rounds.at(-2);
  // The first round sends everything, so it says nothing about the rate of change.
  if (last === undefined || before === undefined || rounds.length === 2) return true;
  // A pace of its own has to show in a round of its own.
  if (last.cpuPercent !== before.cpuPercent) return left <= last.changedPages;
  return last.changedPages <= before.changedPages * WORTHWHILE;
}

/** Pages that a freeze at this moment would have to send. */
function remainingPages({ rounds, curve, pendingPages }: CopyView): number {
  if (pendingPages !== undefined) return pendingPages;
  const last = rounds.at(-1);
  if (last === undefined) return 0;
  const before = rounds.at(-2);
  if (before === undefined) {
    // Only the sample knows; without one, all that was sent may have changed.
    return curve?.isKnown === true ? curve.pagesAfter(last.tookMs) : last.changedPages;
  }
  // What this round found was written in the time of the one before; what is left, in its own.
  const pace = (last.cpuPercent ?? 100) / (before.cpuPercent ?? 100);
  const then = curve?.pagesAfter(before.tookMs) ?? 0;
  const share =
    curve !== undefined && then > 0
      ? curve.pagesAfter(last.tookMs * pace) / then
      : Math.sqrt((last.tookMs * pace) / Math.max(1, before.tookMs));
  return last.changedPages * Math.min(1.5, share);
}
