/** A container stands still for less, unless it is stopped for all of its copy. */
const PATIENCE_MS = 5_000;

/** One's turn; to be given back when what it was for is over. */
export interface Turn extends Disposable {
  readonly waitedMs: number;
}

/**
 * Containers of a host stand still one after another: what CRIU and the agent then do would take as long for two at once
 * as for one after the other, and the clients of both would wait for both. In the order in which they ask.
 */
export class Turns {
  readonly #patienceMs: number;
  #last: Promise<unknown> = Promise.resolve();

  /** @param patienceMs after which one goes on although it is not its turn: another may wait for a host that is gone */
  constructor(patienceMs = PATIENCE_MS) {
    this.#patienceMs = patienceMs;
  }

  /** Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Turn> {
    signal.throwIfAborted();
    const beganAt = performance.now();
    const over = Promise.withResolvers<void>();
    const before = this.#last;
    this.#last = Promise.all([before, over.promise]);
    const given = Promise.withResolvers<never>();
    given.promise.catch(() => undefined);
    const patience = Promise.withResolvers<void>();
    const timer = setTimeout(patience.resolve, this.#patienceMs);
    const giveUp = (): void => given.reject(signal.reason);
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      await Promise.race([before, patience.promise, given.promise]);
    } catch (error) {
      over.resolve();
      throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
    }
    return { waitedMs: performance.now() - beganAt, [Symbol.dispose]: over.resolve };
  }
}
