/**
 * A cap on a rate: what is spent may go beyond what is there, and is then waited for. So a message of any size passes
 * whole, and on the average no more than the rate does. Without I/O or a clock of its own.
 */
export class TokenBucket {
  readonly #bytesPerSecond: number;
  readonly #burstBytes: number;
  #bytes: number;
  #atMs: number | undefined;

  /** @param burstBytes what may pass at once after a pause */
  constructor(bytesPerSecond: number, burstBytes: number) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#burstBytes = burstBytes;
    this.#bytes = burstBytes;
  }

  /** How long until something may pass; 0: now. */
  waitMs(nowMs: number): number {
    this.#refill(nowMs);
    return this.#bytes > 0 ? 0 : Math.max(1, Math.ceil((-this.#bytes * 1000) / this.#bytesPerSecond));
  }

  spend(bytes: number, nowMs: number): void {
    this.#refill(nowMs);
    this.#bytes -= bytes;
  }

  #refill(nowMs: number): void {
    const passedMs = Math.max(0, nowMs - (this.#atMs ?? nowMs));
    this.#atMs = nowMs;
    this.#bytes = Math.min(this.#burstBytes, this.#bytes + (passedMs * this.#bytesPerSecond) / 1000);
  }
}
