import { rmSync, symlinkSync, writeFileSync } from "node:fs";

import { type Pages, union, without } from "../checkpoint/page-runs.ts";
import { encodePagemap, markLazy, PageFlag } from "../checkpoint/pagemap-image.ts";
import { hasLastIndex, IndexReader, readLastIndex } from "../filler/index-files.ts";
import { pagesFileOf, type RoundIndex } from "../filler/page-index.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { pagemapFileOf } from "./page-run.ts";

/** The round that ends a number of them, from 1 on, has this folder until it is the last. */
export const roundFolderOf = (round: number): string => `round-${round}`;

/**
 * Writes the list by which CRIU finds the pages of an address space: those that a round has brought, and of all others
 * that are there that they are to be looked for in the round before, its parent.
 * @param folder the round's
 * @param ranges what lies in these is left to the filler
 */
export function writeList(
  folder: string,
  space: string,
  { pagesId, runs }: Pick<RoundIndex, "pagesId" | "runs">,
  there: readonly Pages[],
  ranges: readonly AddressRange[] = [],
): void {
  const brought = runs.map((run) => ({ ...run, flags: PageFlag.present }));
  const inherited = without(there, runs).map((run) => ({ ...run, flags: PageFlag.parent }));
  const list = [...brought, ...inherited].sort((a, b) => a.address - b.address);
  const image = encodePagemap(pagesId, markLazy(list, ranges));
  writeFileSync(`${folder}/${pagemapFileOf(space) ?? ""}`, image, { mode: 0o600 });
}

/**
 * Writes the lists by which CRIU itself finds pages of an address space that earlier rounds have brought: each round is
 * a folder of CRIU image files whose `parent` is the round before, and has a list of all that was there by then.
 * @param rounds of the address space, the first one first
 * @param last number of the last of the earlier rounds
 */
export function writeParentLists(
  folder: string,
  space: string,
  rounds: readonly RoundIndex[],
  last: number,
): void {
  const byFolder = new Map(rounds.map((round) => [round.folder, round]));
  let known: readonly Pages[] = [];
  let pagesId: number | undefined;
  for (let number = 1; number <= last; number += 1) {
    const place = roundFolderOf(number);
    const round = byFolder.get(place);
    pagesId = round?.pagesId ?? pagesId;
    // It did not exist yet.
    if (pagesId === undefined) continue;
    // One that brought nothing has a file without content.
    const content = round ?? { folder: place, pagesId, runs: [] };
    if (round === undefined) writeFileSync(`${folder}/${pagesFileOf(content)}`, "", { mode: 0o600 });
    known = union(known, content.runs);
    writeList(`${folder}/${place}`, space, content, known);
  }
}

/** Says of each round's folder, and of the image's, which one is its parent. Idempotent. */
export function linkParents(folder: string, last: number): void {
  for (let number = 2; number <= last; number += 1)
    link(`../${roundFolderOf(number - 1)}`, `${folder}/${roundFolderOf(number)}/parent`);
  if (last > 0) link(roundFolderOf(last), `${folder}/parent`);
}

function link(to: string, path: string): void {
  rmSync(path, { force: true });
  symlinkSync(to, path);
}

/**
 * Makes an image that was to be filled later one that CRIU restores as a whole, as long as all of it is still there.
 * Idempotent; nothing to do for an image that was whole from the beginning.
 */
export function makeWhole(folder: string): void {
  if (!hasLastIndex(folder)) return;
  const reader = new IndexReader(folder);
  reader.readRounds();
  for (const [space, last] of Object.entries(readLastIndex(folder))) {
    // Its content never came.
    if (last.follows === true) continue;
    writeList(folder, space, last, reader.image.end(space, last));
    writeParentLists(folder, space, reader.image.spaces.get(space)?.rounds ?? [], reader.rounds);
  }
  linkParents(folder, reader.rounds);
}
