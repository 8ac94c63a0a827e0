import { PAGE_BYTES } from "./page-index.ts";

/** Consecutive pages of a process that are still missing, and that lie side by side in the image, too. */
export interface PendingRange {
  readonly start: number;
  readonly end: number;
  /** Number of the first one in the image (see ImagePages). */
  readonly page: number;
}

/** Of consecutive pages of an image, the first that are here: how many are before them, and how many they are. */
export type Present = (
  page: number,
  pages: number,
) => { readonly skipped: number; readonly pages: number } | undefined;

const ALL: Present = (_, pages) => ({ skipped: 0, pages });

/**
 * The pages that one process still lacks, as its memory is laid out now: it follows what the process maps elsewhere and
 * forgets what it gives up. Pure.
 */
export class PendingPages {
  /** By rising address; they do not overlap. */
  #ranges: PendingRange[];

  constructor(ranges: readonly PendingRange[]) {
    this.#ranges = [...ranges];
  }

  get ranges(): readonly PendingRange[] {
    return this.#ranges;
  }

  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  /** The one that holds the address, or the first behind it. */
  #indexFrom(address: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle]?.end ?? 0) <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  find(address: number): PendingRange | undefined {
    const range = this.#ranges[this.#indexFrom(address)];
    return range !== undefined && range.start <= address ? range : undefined;
  }

  /**
   * What is missing from this address on, and after the last one from the beginning: at most so many pages, of those
   * that are `present`.
   */
  next(address: number, pages: number, present: Present = ALL): PendingRange | undefined {
    const first = this.#indexFrom(address);
    const count = this.#ranges.length;
    // The range that the address is in comes twice: from there on, and at last up to there.
    for (let step = 0; step <= count; step += 1) {
      const range = this.#ranges[(first + step) % count];
      if (range === undefined) return undefined;
      const start = step === 0 && range.start < address && address < range.end ? address : range.start;
      const page = range.page + (start - range.start) / PAGE_BYTES;
      const found = present(page, (range.end - start) / PAGE_BYTES);
      if (found === undefined) continue;
      const from = start + found.skipped * PAGE_BYTES;
      return part(range, from, from + Math.min(pages, found.pages) * PAGE_BYTES);
    }
    return undefined;
  }

  /** Takes out what is missing between the addresses, and answers it. */
  take(start: number, end: number): PendingRange[] {
    const first = this.#indexFrom(start);
    let last = first;
    while (last < this.#ranges.length && (this.#ranges[last]?.start ?? end) < end) last += 1;
    const touched = this.#ranges.slice(first, last);
    const left: PendingRange[] = [];
    const taken: PendingRange[] = [];
    for (const range of touched) {
      if (range.start < start) left.push(part(range, range.start, start));
      taken.push(part(range, Math.max(range.start, start), Math.min(range.end, end)));
      if (range.end > end) left.push(part(range, end, range.end));
    }
    if (touched.length > 0) this.#ranges.splice(first, touched.length, ...left);
    return taken;
  }

  /** The process has moved a mapping. Answers what it thereby gave up where that is now. */
  move(from: number, to: number, bytes: number): PendingRange[] {
    const moved = this.take(from, from + bytes);
    const lost = this.take(to, to + bytes);
    const offset = to - from;
    const arrived = moved.map(({ start, end, page }) => ({ start: start + offset, end: end + offset, page }));
    this.#ranges.splice(this.#indexFrom(to), 0, ...arrived);
    return lost;
  }

  clone(): PendingPages {
    return new PendingPages(this.#ranges);
  }
}

function part(range: PendingRange, start: number, end: number): PendingRange {
  return { start, end, page: range.page + (start - range.start) / PAGE_BYTES };
}
