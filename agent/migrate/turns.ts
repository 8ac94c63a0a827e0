/** One's turn; to be given back when what it was for is over. */
export interface Turn extends Disposable {
  readonly waitedMs: number;
}

/** So many at a time, in the order in which they ask. */
export class Turns {
  readonly #places: number;
  readonly #patienceMs: number;
  readonly #waiting = new Set<() => void>();
  #taken = 0;

  /** @param patienceMs after which one goes on although it is not its turn; absent: never */
  constructor(places: number, patienceMs = Infinity) {
    this.#places = places;
    this.#patienceMs = patienceMs;
  }

  /** Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Turn> {
    signal.throwIfAborted();
    const beganAt = performance.now();
    if (this.#taken < this.#places) this.#taken += 1;
    else await this.#awaitTurn(signal);
    let isOver = false;
    const giveBack = (): void => {
      if (!isOver) this.#giveBack();
      isOver = true;
    };
    return { waitedMs: performance.now() - beganAt, [Symbol.dispose]: giveBack };
  }

  /** When it resolves the place is taken. */
  async #awaitTurn(signal: AbortSignal): Promise<void> {
    const turn = Promise.withResolvers<void>();
    this.#waiting.add(turn.resolve);
    const giveUp = (): void => {
      if (this.#waiting.delete(turn.resolve)) turn.reject(signal.reason);
    };
    const goOn = (): void => {
      if (!this.#waiting.delete(turn.resolve)) return;
      this.#taken += 1;
      turn.resolve();
    };
    signal.addEventListener("abort", giveUp, { once: true });
    const timer = this.#patienceMs === Infinity ? undefined : setTimeout(goOn, this.#patienceMs);
    try {
      await turn.promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
    }
  }

  #giveBack(): void {
    const [next] = this.#waiting;
    if (next === undefined || this.#taken > this.#places) {
      this.#taken -= 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}
