/** What a Credit says, as numbers that have passed no check yet. */
export interface CreditFigures {
  readonly acknowledged: number;
  readonly limit: number;
  readonly resend: boolean;
  readonly complete: boolean;
  readonly consumed?: number | undefined;
}

/**
 * So many chunks are on their way at a time after a loss, and more again as they arrive. Were all of the window sent
 * again for each chunk that is lost, a network that goes on losing some would get many times what it was to carry, and
 * what it does not take yet waits in this process's memory.
 */
const AFTER_LOSS = 4;

/**
 * The sender's half of the flow control, without I/O or time: which chunks are held, which may be
 * transmitted next, and what a credit changes. Chunks are held from `add` until they are acknowledged, at
 * most `capacity` at a time. Loss is mended by going back to the first chunk that was not acknowledged:
 * NATS keeps the order of one connection, so a gap means that all in flight behind it were dropped too or
 * will be asked for again.
 */
export class SenderWindow<T> {
  readonly #capacity: number;
  readonly #held = new Map<number, T>();
  #acknowledged = 0;
  #consumed = 0;
  #limit = 0;
  /** Next to transmit; below `#added`, above or at `#acknowledged`. */
  #cursor = 0;
  /** Highest sequence ever transmitted, plus one. */
  #transmitted = 0;
  #added = 0;
  #ended = false;
  #complete = false;
  /** How many may be on their way at a time. */
  #pace: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#pace = capacity;
  }

  /** Sequence that the next added chunk will have. */
  get next(): number {
    return this.#added;
  }

  get cursor(): number {
    return this.#cursor;
  }

  /** True once the receiver said that the last chunk was taken in and the digest was right. */
  get complete(): boolean {
    return this.#complete;
  }

  /** So many chunks may be added. */
  get room(): number {
    return this.#ended ? 0 : this.#capacity - (this.#added - this.#acknowledged);
  }

  /** Everything that was added has been transmitted. */
  get isTransmitted(): boolean {
    return this.#cursor === this.#added;
  }

  /** The receiver would take more, and is to say first that what is on its way has arrived. */
  get isHeldBack(): boolean {
    return this.#cursor < this.#added && this.#cursor < this.#limit && this.#isPaced;
  }

  get #isPaced(): boolean {
    return this.#cursor >= this.#acknowledged + this.#pace;
  }

  /** The receiver has nothing left to do but with the chunk that was added last. */
  get isDrained(): boolean {
    return this.#acknowledged === this.#added && this.#consumed === this.#added;
  }

  add(chunk: T, last: boolean): void {
    if (this.room === 0) throw new RangeError("no room in the sender's window");
    this.#held.set(this.#added++, chunk);
    this.#ended = last;
  }

  /** The next chunk that may be transmitted now, if any; moves on behind it. */
  take(): { readonly chunk: T; readonly again: boolean } | undefined {
    if (this.#cursor >= this.#added || this.#cursor >= this.#limit || this.#isPaced) return undefined;
    const chunk = this.#held.get(this.#cursor);
    if (chunk === undefined) throw new RangeError(`chunk ${this.#cursor} is not held`);
    const again = this.#cursor < this.#transmitted;
    this.#cursor++;
    this.#transmitted = Math.max(this.#transmitted, this.#cursor);
    return { chunk, again };
  }

  /**
   * Takes a credit in and returns the chunks that may be forgotten. Credits may be lost, repeated or late:
   * an old one changes nothing, and one that this stream cannot have caused is ignored.
   */
  credit(credit: CreditFigures): T[] {
    const { acknowledged, limit } = credit;
    if (!Number.isSafeInteger(acknowledged) || !Number.isSafeInteger(limit)) return [];
    if (acknowledged < this.#acknowledged || acknowledged > this.#transmitted || limit < acknowledged)
      return [];
    const released: T[] = [];
    for (let sequence = this.#acknowledged; sequence < acknowledged; sequence++) {
      const chunk = this.#held.get(sequence);
      if (chunk !== undefined) released.push(chunk);
      this.#held.delete(sequence);
    }
    const pace = credit.resend ? AFTER_LOSS : this.#pace + acknowledged - this.#acknowledged;
    this.#pace = Math.min(this.#capacity, pace);
    this.#acknowledged = acknowledged;
    this.#consumed = Math.min(acknowledged, Math.max(this.#consumed, credit.consumed ?? acknowledged));
    this.#limit = Math.max(this.#limit, limit);
    this.#cursor = credit.resend ? acknowledged : Math.max(this.#cursor, acknowledged);
    if (credit.complete && this.#ended && acknowledged === this.#added) this.#complete = true;
    return released;
  }
}
