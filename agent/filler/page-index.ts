import type { Pages } from "../checkpoint/page-runs.ts";

export const PAGE_BYTES = 4096;

/** What one round of an image has brought of one address space. */
export interface RoundIndex {
  /** Relative to the image's. */
  readonly folder: string;
  readonly pagesId: number;
  /** By rising address; their content lies one after the other in the file. */
  readonly runs: readonly Pages[];
  /** Post-copy: the file has room for the content, which is still at the source. */
  readonly follows?: true;
}

export interface PageLocation {
  readonly file: string;
  readonly offset: number;
  /** How many pages from here on lie side by side; at most as many as were asked for. */
  readonly pages: number;
}

/** Of the content, relative to the image's folder. */
export const pagesFileOf = ({ folder, follows, pagesId }: RoundIndex): string =>
  `${folder}/${follows === true ? "following" : "pages"}-${pagesId}.img`;

/** Where the pages of one address space lie that one round has brought. */
class SearchableRound {
  readonly file: string;
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  readonly offsets: Float64Array;

  constructor(index: RoundIndex) {
    this.file = pagesFileOf(index);
    const count = index.runs.length;
    this.starts = new Float64Array(count);
    this.ends = new Float64Array(count);
    this.offsets = new Float64Array(count);
    let offset = 0;
    for (let at = 0; at < count; at += 1) {
      const { address, pages } = index.runs[at] as Pages;
      this.starts[at] = address;
      this.ends[at] = address + pages * PAGE_BYTES;
      this.offsets[at] = offset;
      offset += pages * PAGE_BYTES;
    }
  }

  /** Number of the run that the address is in, or of the first behind it; `from`: none before that is. */
  search(address: number, from: number): number {
    // Who asks by rising address is there at once, or nearly.
    for (let near = from; near < from + NEAR; near += 1)
      if (!((this.ends[near] ?? Infinity) <= address)) return near;
    let low = from + NEAR;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.ends[middle] ?? 0) <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const NEAR = 4;

/**
 * Where each page of one address space of a received image lies: where the latest round that brought it has put it. Of a
 * page that is there no more, where it was last. Pure.
 */
export class PageIndex {
  /** The last one first. */
  readonly #rounds: SearchableRound[] = [];

  /** A round that is later than all before. */
  add(round: RoundIndex): void {
    this.#rounds.unshift(new SearchableRound(round));
  }

  /** Undefined when no round has brought the page. */
  locate(address: number, pages: number): PageLocation | undefined {
    return this.#find(address, pages, new Uint32Array(this.#rounds.length));
  }

  /**
   * Where all of these lie, piece by piece.
   * @param runs by rising address
   * @throws when no round has brought one of them
   */
  *locateAll(runs: Iterable<Pages>): Generator<PageLocation> {
    const reached = new Uint32Array(this.#rounds.length);
    for (const { address, pages } of runs) {
      for (let done = 0; done < pages;) {
        const at = address + done * PAGE_BYTES;
        const place = this.#find(at, pages - done, reached);
        if (place === undefined) throw new Error(`no page for ${at.toString(16)} is in the image`);
        yield place;
        done += place.pages;
      }
    }
  }

  /** @param reached of each round, a run before which the address is not; moved on */
  #find(address: number, pages: number, reached: Uint32Array): PageLocation | undefined {
    let wanted = pages;
    for (let number = 0; number < this.#rounds.length; number += 1) {
      const round = this.#rounds[number] as SearchableRound;
      const run = round.search(address, reached[number] ?? 0);
      reached[number] = run;
      const start = round.starts[run] ?? Infinity;
      if (start > address) {
        wanted = Math.min(wanted, (start - address) / PAGE_BYTES);
        continue;
      }
      const most = ((round.ends[run] ?? 0) - address) / PAGE_BYTES;
      const offset = (round.offsets[run] ?? 0) + address - start;
      return { file: round.file, offset, pages: Math.min(wanted, most) };
    }
    return undefined;
  }
}
