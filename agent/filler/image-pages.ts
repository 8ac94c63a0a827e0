import type { Pages } from "../checkpoint/page-runs.ts";
import { PAGE_BYTES, type PageIndex } from "./page-index.ts";
import type { PendingRange, Present } from "./pending-pages.ts";

/** Pages that lie side by side in one file. */
interface Segment {
  /** Number of the first one. */
  readonly page: number;
  readonly pages: number;
  readonly file: string;
  readonly offset: number;
}

export interface FileRange {
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
}

/** Of a page that follows: whether it has come. */
const ABSENT = 0;
const PRESENT = 1;

/**
 * The pages of one restored process that an image holds for later, numbered in the order of their addresses; and how
 * many processes, the restored one and what it has forked, still lack each of them. Pure.
 */
export class ImagePages {
  readonly #segments: Segment[] = [];
  readonly #lacking: Uint32Array;
  /** Undefined: all pages are here. */
  readonly #present: Uint8Array | undefined;
  #absentPages = 0;
  /** Goes up each time that pages come. */
  arrivals = 0;
  /** What the restored process lacks at first. */
  readonly missing: PendingRange[] = [];

  /**
   * @param pages which are left out of the restore, by rising address
   * @param follow their content is still to come
   * @throws when the image has not all of them
   */
  constructor(index: PageIndex, pages: readonly Pages[], follow = false) {
    let first = 0;
    for (const run of pages) {
      this.missing.push({ start: run.address, end: run.address + run.pages * PAGE_BYTES, page: first });
      first += run.pages;
    }
    let count = 0;
    for (const { file, offset, pages: many } of index.locateAll(pages)) {
      this.#segments.push({ page: count, pages: many, file, offset });
      count += many;
    }
    this.#lacking = new Uint32Array(count).fill(1);
    if (follow) {
      this.#present = new Uint8Array(count);
      this.#absentPages = count;
    }
  }

  /** Those that have not come and that somebody lacks, by their addresses in the image. */
  *absent(): Generator<{ readonly address: number; readonly pages: number }> {
    const present = this.#present;
    if (present === undefined || this.#absentPages === 0) return;
    for (const { start, end, page } of this.missing) {
      const last = page + (end - start) / PAGE_BYTES;
      let from = -1;
      for (let index = page; index <= last; index += 1) {
        const lacks = index < last && present[index] === ABSENT && (this.#lacking[index] ?? 0) > 0;
        if (lacks && from < 0) from = index;
        if (lacks || from < 0) continue;
        yield { address: start + (from - page) * PAGE_BYTES, pages: index - from };
        from = -1;
      }
    }
  }

  /** The content of these, by their addresses in the image, has come. Answers where those lie that nobody wants. */
  *arrive(address: number, pages: number): Generator<FileRange> {
    const present = this.#present;
    if (present === undefined) return;
    for (let done = 0; done < pages; done += 1) {
      const page = this.#pageAt(address + done * PAGE_BYTES);
      if (page === undefined) throw new Error("a page has come that the image has not");
      if (present[page] === ABSENT) this.#absentPages -= 1;
      present[page] = PRESENT;
      if (this.#lacking[page] === 0) yield* this.locate(page, 1);
    }
    this.arrivals += 1;
  }

  /** Of consecutive pages, the first that are here. */
  readonly present: Present = (page, pages) => {
    const present = this.#present;
    if (present === undefined || this.#absentPages === 0) return { skipped: 0, pages };
    const from = present.indexOf(PRESENT, page);
    if (from < 0 || from >= page + pages) return undefined;
    const end = present.indexOf(ABSENT, from);
    return { skipped: from - page, pages: (end < 0 ? page + pages : Math.min(end, page + pages)) - from };
  };

  isPresent(page: number): boolean {
    return this.#present === undefined || this.#present[page] === PRESENT;
  }

  /** Where a page was when the image was made. */
  addressOf(page: number): number {
    const range = this.#rangeOf((one) => one.page + (one.end - one.start) / PAGE_BYTES <= page);
    if (range === undefined) throw new Error(`the image has no page ${page}`);
    return range.start + (page - range.page) * PAGE_BYTES;
  }

  #pageAt(address: number): number | undefined {
    const range = this.#rangeOf(({ end }) => end <= address);
    return range === undefined || range.start > address
      ? undefined
      : range.page + (address - range.start) / PAGE_BYTES;
  }

  /** The first that is not `before`. */
  #rangeOf(before: (range: PendingRange) => boolean): PendingRange | undefined {
    let low = 0;
    let high = this.missing.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const range = this.missing[middle];
      if (range !== undefined && before(range)) low = middle + 1;
      else high = middle;
    }
    return this.missing[low];
  }

  get pages(): number {
    return this.#lacking.length;
  }

  /** One more process lacks these. */
  need(ranges: readonly PendingRange[]): void {
    for (const { start, end, page } of ranges) {
      const pages = (end - start) / PAGE_BYTES;
      for (let index = page; index < page + pages; index += 1)
        this.#lacking[index] = (this.#lacking[index] ?? 0) + 1;
    }
  }

  /** One process has these or wants them no more. Answers where those lie that nobody can want any more. */
  *settle(ranges: readonly PendingRange[]): Generator<FileRange> {
    for (const { start, end, page } of ranges) {
      const last = page + (end - start) / PAGE_BYTES;
      let free = page;
      for (let index = page; index < last; index += 1) {
        const left = (this.#lacking[index] ?? 1) - 1;
        this.#lacking[index] = left;
        if (left === 0) continue;
        yield* this.locate(free, index - free);
        free = index + 1;
      }
      yield* this.locate(free, last - free);
    }
  }

  /** Where these lie. */
  *locate(page: number, pages: number): Generator<FileRange> {
    let low = 0;
    let high = this.#segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const segment = this.#segments[middle];
      if (segment !== undefined && segment.page + segment.pages <= page) low = middle + 1;
      else high = middle;
    }
    for (let at = page; at < page + pages; low += 1) {
      const segment = this.#segments[low];
      if (segment === undefined) throw new Error(`the image has no page ${at}`);
      const skipped = at - segment.page;
      const count = Math.min(segment.pages - skipped, page + pages - at);
      yield {
        file: segment.file,
        offset: segment.offset + skipped * PAGE_BYTES,
        bytes: count * PAGE_BYTES,
      };
      at += count;
    }
  }

  /** Where all lie, those of one file by rising offset. */
  *places(): Generator<FileRange> {
    for (const { file, offset, pages } of this.#segments) yield { file, offset, bytes: pages * PAGE_BYTES };
  }
}
