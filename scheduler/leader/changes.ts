/** Tells any number of watchers that something changed; a slow one misses nothing but sees several changes as one. */
export class Changes {
  #version = 0;
  readonly #waiting = new Set<() => void>();

  notify(): void {
    this.#version += 1;
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  /** Counts from the call on, not from the first read. */
  watch(signal: AbortSignal): AsyncIterable<void> {
    const seen = this.#version;
    return { [Symbol.asyncIterator]: () => this.#follow(seen, signal) };
  }

  async *#follow(from: number, signal: AbortSignal): AsyncGenerator<void> {
    let seen = from;
    while (!signal.aborted) {
      if (seen === this.#version) {
        await this.#changed(signal);
        continue;
      }
      seen = this.#version;
      yield;
    }
  }

  async #changed(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.add(resolve);
    const onAbort = (): void => resolve();
    signal.addEventListener("abort", onAbort, { once: true });
    await promise;
    signal.removeEventListener("abort", onAbort);
    this.#waiting.delete(resolve);
  }
}
