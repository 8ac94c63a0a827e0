import type { CreditFigures } from "./sender-window.ts";

/** What to do with a chunk that has arrived. */
export type Verdict =
  | "next" // call accept
  | "ignore" // a repetition, or beyond what was allowed
  | "ask"; // send the credit: a gap, or a repetition from a sender that has missed the end

/**
 * The receiver's half of the flow control, without I/O or time. Chunks are taken in order only; `limit`
 * lets at most `capacity` of them wait for the consumer.
 */
export class ReceiverWindow {
  readonly #capacity: number;
  #expected = 0;
  #consumed = 0;
  #ended = false;
  #published = { acknowledged: 0, limit: 0 };
  /** Highest sequence seen behind the present gap: at or below it, the sender has gone back and lost again. */
  #gapSeen = -1;
  #resend = false;
  /** The sender has asked while chunks were waiting: it is told when none is any more. */
  #isAwaited = false;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get expected(): number {
    return this.#expected;
  }

  /** Chunks accepted and not yet consumed. To consume the last one says that the digest was right. */
  get waiting(): number {
    return this.#expected - this.#consumed;
  }

  /** Everything up to the last chunk was consumed. */
  get complete(): boolean {
    return this.#ended && this.waiting === 0;
  }

  /** Whether `offer` would say "ignore" to a chunk that was consumed long ago, so that it need not be opened. */
  isOld(sequence: number): boolean {
    return !this.#ended && sequence < this.#expected;
  }

  /** Only chunks that are the sender's for sure. */
  offer(sequence: number): Verdict {
    if (this.#ended) return "ask";
    if (sequence < this.#expected) return "ignore";
    if (sequence >= this.#consumed + this.#capacity) return "ignore";
    if (sequence === this.#expected) return "next";
    const asks = this.#gapSeen < 0 || sequence <= this.#gapSeen;
    this.#gapSeen = asks ? sequence : Math.max(this.#gapSeen, sequence);
    if (!asks) return "ignore";
    this.#resend = true;
    return "ask";
  }

  /** The chunk offered last is taken. */
  accept(last: boolean): void {
    if (this.#ended) throw new RangeError("a chunk behind the last one");
    this.#expected++;
    this.#gapSeen = -1;
    this.#resend = false;
    this.#ended = last;
  }

  /** A sign of life that says what the sender has transmitted so far. Always to be answered. */
  probe(sequence: number): void {
    this.#isAwaited = true;
    if (this.#ended || sequence <= this.#expected) return;
    this.#resend = true;
    this.#gapSeen = Math.max(this.#gapSeen, sequence - 1);
  }

  consume(): void {
    if (this.waiting <= 0) throw new RangeError("nothing to consume");
    this.#consumed++;
  }

  /** Whether enough has changed that the sender should hear of it unasked. */
  get creditDue(): boolean {
    if (this.complete || (this.#isAwaited && this.waiting === 0)) return true;
    const step = Math.max(1, this.#capacity >> 2);
    return (
      this.#consumed + this.#capacity - this.#published.limit >= step ||
      this.#expected - this.#published.acknowledged >= step
    );
  }

  /** The credit to publish now. */
  credit(): CreditFigures {
    this.#isAwaited &&= this.waiting > 0;
    const credit = {
      acknowledged: this.#expected,
      consumed: this.#consumed,
      limit: this.#consumed + this.#capacity,
      resend: this.#resend,
      complete: this.complete,
    };
    this.#published = { acknowledged: credit.acknowledged, limit: credit.limit };
    this.#resend = false;
    return credit;
  }
}
