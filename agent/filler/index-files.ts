import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

import { ImageIndex, type LastIndex } from "./image-index.ts";
import type { RoundIndex } from "./page-index.ts";

/**
 * Beside an image that is filled later, as JSON: for each round that has ended what it brought of each address space,
 * and at last, when the image is whole, the same of its last round.
 */
const LAST_FILE = "page-index.json";
const roundFileOf = (round: number): string => `page-index-${round}.json`;

/** What the agent then says to the filler. */
export const ROUND_ENDED = 2;

type BySpace<Index> = Readonly<Record<string, Index>>;

/** @param round from 1 on, without a gap */
export const writeRoundIndex = (
  folder: string,
  round: number,
  indexes: ReadonlyMap<string, RoundIndex>,
): void => write(folder, roundFileOf(round), indexes);

/** Written last: an image that has it is filled later. */
export const writeLastIndex = (folder: string, indexes: ReadonlyMap<string, LastIndex>): void =>
  write(folder, LAST_FILE, indexes);

export const hasLastIndex = (folder: string): boolean => existsSync(`${folder}/${LAST_FILE}`);

export const readLastIndex = (folder: string): BySpace<LastIndex> =>
  JSON.parse(readFileSync(`${folder}/${LAST_FILE}`, "utf8")) as BySpace<LastIndex>;

function write(folder: string, name: string, indexes: ReadonlyMap<string, RoundIndex>): void {
  const draft = `${folder}/${name}.draft`;
  writeFileSync(draft, JSON.stringify(Object.fromEntries(indexes)), { mode: 0o600 });
  renameSync(draft, `${folder}/${name}`);
}

/** Reads what is there, round by round as they end. */
export class IndexReader {
  readonly image = new ImageIndex();
  readonly #folder: string;
  /** That were read. */
  rounds = 0;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Those that have ended since it was called last. */
  readRounds(): void {
    for (;;) {
      const path = `${this.#folder}/${roundFileOf(this.rounds + 1)}`;
      if (!existsSync(path)) return;
      const round = JSON.parse(readFileSync(path, "utf8")) as BySpace<RoundIndex>;
      for (const [space, index] of Object.entries(round)) this.image.add(space, index);
      this.rounds += 1;
    }
  }
}
