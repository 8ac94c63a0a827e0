/**
 * What has changed when, of things that are told to somebody only where they differ from what is known there. "When" is
 * a number that rises: of a report, of a revision. Whoever knows all that was so at one number is told what has changed
 * since, as it is now; he may as well know some of it already, so nothing depends on what was told in between. Pure.
 */

/** Beyond so many changes that nobody has confirmed, everything is told anew. */
const MOST_UNCONFIRMED = 4_096;

export class ChangeBook {
  readonly #prints = new Map<string, string>();
  /** By key, when it changed last or went, in this order. */
  readonly #recent = new Map<string, number>();
  #floor: number;

  /** Whoever knows only what was so before `floor` has to be told everything. */
  constructor(floor = 0) {
    this.#floor = floor;
  }

  get size(): number {
    return this.#prints.size;
  }
  has(key: string): boolean {
    return this.#prints.has(key);
  }
  keys(): IterableIterator<string> {
    return this.#prints.keys();
  }

  /** `print` is equal if and only if the thing is; true: it was not, or there was none. */
  put(key: string, print: string, at: number): boolean {
    if (this.#prints.get(key) === print) return false;
    this.#prints.set(key, print);
    this.#note(key, at);
    return true;
  }
  /** True: there was one. */
  remove(key: string, at: number): boolean {
    if (!this.#prints.delete(key)) return false;
    this.#note(key, at);
    return true;
  }
  #note(key: string, at: number): void {
    this.#recent.delete(key);
    this.#recent.set(key, at);
    if (this.#recent.size <= this.#prints.size + MOST_UNCONFIRMED) return;
    this.#recent.clear();
    this.#floor = at;
  }

  /** Keys of what has changed or gone since; undefined: that is not known (any more). */
  since(base: number): string[] | undefined {
    if (base < this.#floor) return undefined;
    const keys: string[] = [];
    for (const [key, at] of this.#recent) if (at > base) keys.push(key);
    return keys;
  }

  /** Nobody will ask for what has changed since a number before this one. */
  settle(upTo: number): void {
    this.#floor = Math.max(this.#floor, upTo);
    for (const [key, at] of this.#recent) {
      if (at > upTo) return;
      this.#recent.delete(key);
    }
  }
}

/** The same of several books at once: undefined as soon as one of them does not know. */
export function changedSince<K extends string>(
  books: Readonly<Record<K, ChangeBook>>,
  base: number,
): Record<K, string[]> | undefined {
  const changed = {} as Record<K, string[]>;
  for (const name in books) {
    const keys = books[name].since(base);
    if (keys === undefined) return undefined;
    changed[name] = keys;
  }
  return changed;
}

export function settleAll(books: Readonly<Record<string, ChangeBook>>, upTo: number): void {
  for (const book of Object.values(books)) book.settle(upTo);
}
