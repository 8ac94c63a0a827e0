import { PAGE_BYTES, type PageIndex } from "./page-index.ts";
import type { PendingRange } from "./pending-pages.ts";

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

/**
 * The pages of one restored process that an image holds for later, numbered in the order of their addresses; and how
 * many processes, the restored one and what it has forked, still lack each of them. Pure.
 */
export class ImagePages {
  readonly #segments: Segment[] = [];
  readonly #lacking: Uint32Array;
  /** What the restored process lacks at first. */
  readonly missing: PendingRange[] = [];

  /**
   * @param pages which are left out of the restore, by rising address
   * @throws when the image has not all of them
   */
  constructor(index: PageIndex, pages: Iterable<{ readonly address: number; readonly pages: number }>) {
    let count = 0;
    for (const run of pages) {
      this.missing.push({
        start: run.address,
        end: run.address + run.pages * PAGE_BYTES,
        page: count,
      });
      for (let done = 0; done < run.pages;) {
        const place = index.locate(run.address + done * PAGE_BYTES, run.pages - done);
        if (place === undefined)
          throw new Error(`no page for ${(run.address + done * PAGE_BYTES).toString(16)} is in the image`);
        this.#segments.push({ page: count, pages: place.pages, file: place.file, offset: place.offset });
        count += place.pages;
        done += place.pages;
      }
    }
    this.#lacking = new Uint32Array(count).fill(1);
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

  /** Where all lie that somebody still lacks. */
  *wanted(): Generator<FileRange> {
    let from = -1;
    for (let page = 0; page <= this.#lacking.length; page += 1) {
      const lacks = (this.#lacking[page] ?? 0) > 0;
      if (lacks && from < 0) from = page;
      if (lacks || from < 0) continue;
      yield* this.locate(from, page - from);
      from = -1;
    }
  }
}
