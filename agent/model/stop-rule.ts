/** When to stop copying memory while the container runs, and freeze it. Pure. */

export interface CopiedRound {
  readonly pages: number;
  readonly changedPages: number;
  readonly tookMs: number;
}

const PAGE_BYTES = 4096;
/** What is left then is sent faster than CRIU starts. */
const SMALL_CHANGE_BYTES = 2 * 1024 * 1024;
/** Another round has to shrink what is left by this much to be worth its time. */
const WORTHWHILE = 0.7;
export const MAX_ROUNDS = 5;

/** Whether the rounds so far say that another one would not make the blackout noticeably shorter. */
export function isTimeToFreeze(rounds: readonly CopiedRound[]): boolean {
  const last = rounds.at(-1);
  if (last === undefined) return false;
  if (rounds.length >= MAX_ROUNDS) return true;
  if (last.changedPages * PAGE_BYTES <= SMALL_CHANGE_BYTES) return true;
  const before = rounds.at(-2);
  // The first round sends everything, so it says nothing about the rate of change.
  if (before === undefined || rounds.length === 2) return false;
  return last.changedPages > before.changedPages * WORTHWHILE;
}
