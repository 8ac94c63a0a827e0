/**
 * Where each page of a received image lies: one index a round, the last round first. A page that a round says its
 * parent has is looked for in the round before. Pure.
 */
export interface IndexedRun {
  readonly address: number;
  readonly pages: number;
  readonly hasContent: boolean;
}

/** One address space in one round; runs by rising address, their content one after the other in the file. */
export interface RoundIndex {
  readonly file: string;
  readonly runs: readonly IndexedRun[];
  /** Post-copy: the file has room for the content, which is still at the source. */
  readonly follows?: true;
}

export interface PageLocation {
  readonly file: string;
  readonly offset: number;
  /** How many pages from here on lie side by side; at most as many as were asked for. */
  readonly pages: number;
}

export const PAGE_BYTES = 4096;
/** JSON, beside the image: for each address space its rounds, the last first; files relative to the image's folder. */
export const INDEX_FILE = "page-index.json";
/** The same of what has come so far, before the image is whole; and what the agent then says to the filler. */
export const REHEARSAL_FILE = "page-index-so-far.json";
export const REHEARSE = 2;

class SearchableRound {
  readonly file: string;
  readonly #runs: readonly IndexedRun[];
  readonly #offsets: Float64Array;

  constructor(index: RoundIndex) {
    this.file = index.file;
    this.#offsets = new Float64Array(index.runs.length);
    // By arrival in the file, by address in the search.
    let offset = 0;
    const placed = index.runs.map((run) => {
      const at = offset;
      if (run.hasContent) offset += run.pages * PAGE_BYTES;
      return { run, at };
    });
    placed.sort((a, b) => a.run.address - b.run.address);
    this.#runs = placed.map(({ run }) => run);
    placed.forEach(({ at }, position) => (this.#offsets[position] = at));
  }

  get runs(): readonly IndexedRun[] {
    return this.#runs;
  }

  find(address: number): { run: IndexedRun; offset: number } | undefined {
    let low = 0;
    let high = this.#runs.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const run = this.#runs[middle];
      if (run === undefined) return undefined;
      if (address < run.address) high = middle - 1;
      else if (address >= run.address + run.pages * PAGE_BYTES) low = middle + 1;
      else return { run, offset: this.#offsets[middle] ?? 0 };
    }
    return undefined;
  }
}

export class PageIndex {
  readonly #rounds: readonly SearchableRound[];

  /** @param rounds of one address space, the last first */
  constructor(rounds: readonly RoundIndex[]) {
    this.#rounds = rounds.map((round) => new SearchableRound(round));
  }

  /** All pages that there are, by rising address: the last round's list. */
  get runs(): readonly IndexedRun[] {
    return this.#rounds[0]?.runs ?? [];
  }

  /** Undefined when no round has the page. */
  locate(address: number, pages: number): PageLocation | undefined {
    let wanted = pages;
    for (const round of this.#rounds) {
      const found = round.find(address);
      if (found === undefined) return undefined;
      const before = (address - found.run.address) / PAGE_BYTES;
      wanted = Math.min(wanted, found.run.pages - before);
      if (found.run.hasContent) {
        return { file: round.file, offset: found.offset + before * PAGE_BYTES, pages: wanted };
      }
    }
    return undefined;
  }
}
