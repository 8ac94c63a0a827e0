import { setTimeout as delay } from "node:timers/promises";

/** Waits, or less if the signal aborts first; never rejects. */
export const pause = async (ms: number, signal: AbortSignal): Promise<void> => {
  await delay(ms, undefined, { signal }).catch(() => undefined);
};
