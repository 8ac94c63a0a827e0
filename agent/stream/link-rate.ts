/** Of a new sample, while the link is what the stream waits for. */
const WEIGHT = 0.3;
/** What the estimate falls by for each acknowledgement that shows that the link could take more. */
const PROBE = 0.85;
/** 1 GB/s: what NATS and the cipher leave of one core at either end, however fast the link is. */
const LEAST_MS_PER_BYTE = 1000 / 1e9;

/**
 * How long the link takes for a byte, as acknowledgements tell. Without I/O or a clock of its own.
 *
 * While the window is nearly full, the link (or the receiver) is what everything waits for, and the time between two
 * acknowledgements is what it takes for what they acknowledge. Otherwise that time is mostly the sender's own, and is
 * only an upper bound: the estimate then falls step by step, until what is sent because of it fills the window, or it
 * no longer matters.
 */
export class LinkRate {
  readonly #capacity: number;
  readonly #least: number;
  #sinceMs = 0;
  #chunks = 0;
  #bytes = 0;
  /** Undefined until something has been acknowledged. */
  msPerByte: number | undefined;

  /**
   * @param capacity chunks that may be under way
   * @param capBytesPerSecond what the stream may take of the link; 0: all of it
   */
  constructor(capacity: number, capBytesPerSecond = 0) {
    this.#capacity = capacity;
    this.#least =
      capBytesPerSecond === 0 ? LEAST_MS_PER_BYTE : Math.max(LEAST_MS_PER_BYTE, 1000 / capBytesPerSecond);
  }

  /** Handed over and not yet acknowledged. */
  get backlogBytes(): number {
    return this.#bytes;
  }

  entered(bytes: number, nowMs: number): void {
    if (this.#chunks === 0) this.#sinceMs = nowMs;
    this.#chunks += 1;
    this.#bytes += bytes;
  }

  acknowledged(chunks: number, bytes: number, nowMs: number): void {
    if (chunks === 0 || bytes === 0) return;
    const isFull = this.#chunks >= this.#capacity * 0.75;
    const sample = Math.max(this.#least, (nowMs - this.#sinceMs) / bytes);
    const known = this.msPerByte;
    if (known === undefined) this.msPerByte = sample;
    else if (isFull) this.msPerByte = known + (sample - known) * WEIGHT;
    else this.msPerByte = Math.max(this.#least, Math.min(known, sample) * PROBE);
    this.#sinceMs = nowMs;
    this.#chunks = Math.max(0, this.#chunks - chunks);
    this.#bytes = this.#chunks === 0 ? 0 : Math.max(0, this.#bytes - bytes);
  }
}
