/** In the place of `node:timers/promises`: waits in virtual time. */

const aborted = (signal: AbortSignal): Error =>
  signal.reason instanceof Error ? signal.reason : new Error("aborted");

/** Rejects when the signal aborts. */
export const sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(aborted(signal));
      return;
    }
    const end = (): void => {
      clearTimeout(timer);
      if (signal !== undefined) reject(aborted(signal));
    };
    const timer = globalThis.setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, ms);
    signal?.addEventListener("abort", end, { once: true });
  });

export const setTimeout = async <T>(
  ms = 0,
  value?: T,
  options: { signal?: AbortSignal } = {},
): Promise<T> => {
  await sleep(ms, options.signal);
  return value as T;
};

export const setImmediate = <T>(value?: T): Promise<T> => setTimeout(0, value);
