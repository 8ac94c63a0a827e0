/** How many bytes may be sent before the other side has said that it took some. Pure but for the waiting. */
export class CreditWindow {
  readonly #maximumBytes: number;
  #availableBytes: number;
  #waiters: (() => void)[] = [];

  /** @param maximumBytes what is granted beyond it counts for nothing: it bounds what can be on its way */
  constructor(initialBytes: number, maximumBytes: number) {
    this.#availableBytes = initialBytes;
    this.#maximumBytes = maximumBytes;
  }

  grant(bytes: number): void {
    this.#availableBytes = Math.min(this.#availableBytes + bytes, this.#maximumBytes);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  /** Takes between 1 and `wantedBytes` (at least 1); waits while there are none. */
  async take(wantedBytes: number, signal: AbortSignal): Promise<number> {
    while (this.#availableBytes <= 0) {
      signal.throwIfAborted();
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = (): void => resolve();
      this.#waiters.push(wake);
      signal.addEventListener("abort", wake);
      await promise;
      signal.removeEventListener("abort", wake);
    }
    signal.throwIfAborted();
    const taken = Math.min(this.#availableBytes, wantedBytes);
    this.#availableBytes -= taken;
    return taken;
  }
}
