import { setTimeout as sleep } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";

const FIRST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 200;

/**
 * Asks until the answer is not undefined. The pauses grow.
 * @param whatMissing says what was waited for when the time is over
 */
export async function waitFor<T>(
  probe: () => T | undefined | Promise<T | undefined>,
  timeoutMs: number,
  whatMissing: () => string,
  signal?: AbortSignal,
): Promise<T> {
  const endMs = performance.now() + timeoutMs;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 1.5, LONGEST_PAUSE_MS)) {
    signal?.throwIfAborted();
    const answer = await probe();
    if (answer !== undefined) return answer;
    if (performance.now() > endMs) throw new GodwitError("deadline", whatMissing());
    await sleep(pauseMs, undefined, { signal });
  }
}
