import type { Machine } from "../log/machine.ts";

/** In each turn of the event loop. */
const SLICE_MS = 10;
/** Beyond so many, what comes is left: whoever sent it asks again. */
const MOST_WAITING = 20_000;

/**
 * Does work as it comes, for so long in each turn of the event loop, and what is left of it in the turns that follow.
 * What comes by the thousand at once would otherwise hold up everything else that came with it, such as what the log has
 * answered.
 */
export class SlicedWork<T> implements Disposable {
  readonly #machine: Pick<Machine, "monotonicMs" | "soon">;
  readonly #work: (item: T) => void;
  readonly #waiting: { readonly item: T; readonly sinceMs: number }[] = [];
  /** When the first work of this turn was begun. */
  #beganMs: number | undefined;
  #nextTurn: Disposable | undefined;

  constructor(machine: Pick<Machine, "monotonicMs" | "soon">, work: (item: T) => void) {
    this.#machine = machine;
    this.#work = work;
  }

  get size(): number {
    return this.#waiting.length;
  }
  /** For how long that waits which has waited for longest. */
  get lateMs(): number {
    const [oldest] = this.#waiting;
    return oldest === undefined ? 0 : this.#machine.monotonicMs() - oldest.sinceMs;
  }

  /** False: it is left, since too much is waiting. */
  add(item: T): boolean {
    if (this.size === 0 && this.#hasTime()) this.#work(item);
    else if (this.size < MOST_WAITING) this.#waiting.push({ item, sinceMs: this.#machine.monotonicMs() });
    else return false;
    return true;
  }

  [Symbol.dispose](): void {
    this.#nextTurn?.[Symbol.dispose]();
    this.#waiting.length = 0;
  }

  #hasTime(): boolean {
    const nowIs = this.#machine.monotonicMs();
    this.#beganMs ??= nowIs;
    this.#nextTurn ??= this.#machine.soon(() => this.#goOn());
    return nowIs - this.#beganMs < SLICE_MS;
  }

  #goOn(): void {
    this.#nextTurn = undefined;
    this.#beganMs = undefined;
    let done = 0;
    for (const { item } of this.#waiting) {
      if (!this.#hasTime()) break;
      this.#work(item);
      done += 1;
    }
    // Shifting each would move all the others.
    this.#waiting.splice(0, done);
  }
}
