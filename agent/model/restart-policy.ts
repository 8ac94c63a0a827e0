import { RestartPolicy, type RestartBackoff } from "../../proto/gen/godwit/v1/spec.ts";

const FIRST_DELAY_MS = 500;
export const LONGEST_DELAY_MS = 30_000;
const RECOVERED_AFTER_MS = 60_000;

/** Whether a container that ran this long has recovered: its next restart waits the first delay again. */
export function hasRecovered(ranMs: number, backoff: RestartBackoff | undefined): boolean {
  return ranMs > (backoff?.resetAfterMs || RECOVERED_AFTER_MS);
}

/** Whether a container that ended by itself with `exitCode` is to be started again. */
export function isRestarted(policy: RestartPolicy, exitCode: number): boolean {
  if (policy === RestartPolicy.NEVER) return false;
  if (policy === RestartPolicy.ON_FAILURE) return exitCode !== 0;
  return true;
}

/** Milliseconds to wait before the next start, after `recentRestarts` quick ones. */
export function restartDelayMs(recentRestarts: number, backoff: RestartBackoff | undefined): number {
  const firstMs = backoff?.initialMs || FIRST_DELAY_MS;
  const longestMs = backoff?.maxMs || Math.max(LONGEST_DELAY_MS, firstMs);
  return Math.min(firstMs * 2 ** Math.min(recentRestarts, 30), longestMs);
}
