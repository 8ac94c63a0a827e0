/** Streams and waits that follow the scheduler's changes. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { Scheduler } from "../../scheduler/mod.ts";

/** What following needs of the scheduler. */
export type Changing = Pick<Scheduler, "changes">;

/**
 * What `read` returns now, and again each time its `key` has changed since; ends when `read` returns undefined, after
 * a value for which `last` holds, or when the signal aborts.
 */
export async function* follow<T>(
  scheduler: Changing,
  signal: AbortSignal,
  read: () => T | undefined,
  options: { readonly key: (value: T) => string; readonly last?: (value: T) => boolean },
): AsyncGenerator<T> {
  // Asked for before the first read: a change in between is then not missed.
  const own = new AbortController();
  const changes = scheduler.changes(AbortSignal.any([signal, own.signal]))[Symbol.asyncIterator]();
  try {
    for (let before: string | undefined; !signal.aborted;) {
      const value = read();
      if (value === undefined) return;
      const key = options.key(value);
      if (key !== before) {
        before = key;
        yield value;
      }
      if (options.last?.(value) === true) return;
      if ((await changes.next()).done === true) return;
    }
  } finally {
    own.abort();
    await changes.return?.();
  }
}

/**
 * The first defined value of `read`, which is asked anew at each change. Throws `deadline` with `what` ("web has not
 * …") after `timeoutMs`, what `read` throws, and `cancelled` when the signal aborts.
 */
export async function waitFor<T>(
  scheduler: Changing,
  signal: AbortSignal,
  timeoutMs: number,
  what: () => string,
  read: () => T | undefined,
): Promise<T> {
  const deadline = AbortSignal.timeout(timeoutMs);
  const either = AbortSignal.any([signal, deadline]);
  const own = new AbortController();
  const changes = scheduler.changes(AbortSignal.any([either, own.signal]))[Symbol.asyncIterator]();
  try {
    for (;;) {
      const value = read();
      if (value !== undefined) return value;
      const ended = (await changes.next()).done === true;
      if (signal.aborted) throw GodwitError.from(signal.reason, "cancelled");
      if (deadline.aborted) throw new GodwitError("deadline", what());
      if (ended) throw new GodwitError("unavailable", "the scheduler is stopping; try again in a moment");
    }
  } finally {
    own.abort();
    await changes.return?.();
  }
}
