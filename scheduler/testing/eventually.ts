import { setTimeout as delay } from "node:timers/promises";

/** Waits for a condition; the error of the deadline says what was waited for. */
export const eventually = async (
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs = 10_000,
): Promise<void> => {
  const startedMs = performance.now();
  while (!(await condition())) {
    if (performance.now() - startedMs > deadlineMs)
      throw new Error(`waited ${deadlineMs} ms in vain for ${what}`);
    await delay(5);
  }
};
