/**
 * Lets callers who want the same thing at the same time share one run of it. The run is told to stop only
 * when all of them have given up; a failed run is forgotten, so the next caller starts anew.
 */
export class SingleFlight<T> {
  readonly #flights = new Map<
    string,
    { readonly result: Promise<T>; readonly stop: AbortController; waiting: number }
  >();

  async run(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    let flight = this.#flights.get(key);
    if (flight === undefined || flight.stop.signal.aborted) {
      const stop = new AbortController();
      const started = { result: work(stop.signal), stop, waiting: 0 };
      const forget = (): void => {
        if (this.#flights.get(key) === started) this.#flights.delete(key);
      };
      started.result.then(forget, forget);
      this.#flights.set(key, started);
      flight = started;
    }
    flight.waiting++;
    const given = Promise.withResolvers<never>();
    const giveUp = (): void => given.reject(signal.reason);
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      return await Promise.race([flight.result, given.promise]);
    } finally {
      signal.removeEventListener("abort", giveUp);
      if (--flight.waiting === 0) flight.stop.abort(signal.reason);
    }
  }
}
