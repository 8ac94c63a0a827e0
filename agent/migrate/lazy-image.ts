import { closeSync, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { open, writeFile } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { type LazySplit, splitLazy } from "../checkpoint/lazy-list.ts";
import { type Pages, pagesOf, rises } from "../checkpoint/page-runs.ts";
import { encodePagemap, PageFlag, type PagemapRun } from "../checkpoint/pagemap-image.ts";
import type { LastIndex } from "../filler/image-index.ts";
import { PAGE_BYTES, type PageIndex, pagesFileOf } from "../filler/page-index.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { pagemapFileOf } from "./page-run.ts";

/**
 * One process's list of pages for a CRIU that leaves most of them to the filler, with the few that it restores itself
 * in one new file: it need not look into any earlier round.
 */
export function writeLazyList(
  folder: string,
  { space, pagesId }: { readonly space: string; readonly pagesId: number },
  { lazy, rest }: LazySplit,
  index: PageIndex,
): void {
  using files = new DisposableStack();
  const opened = new Map<string, number>();
  const sourceOf = (file: string): number => {
    let descriptor = opened.get(file);
    if (descriptor === undefined) {
      descriptor = openSync(`${folder}/${file}`, "r");
      files.adopt(descriptor, closeSync);
      opened.set(file, descriptor);
    }
    return descriptor;
  };
  const target = openSync(`${folder}/pages-${pagesId}.img`, "wx", 0o600);
  files.adopt(target, closeSync);
  for (const { address, pages } of rest) {
    for (let done = 0; done < pages;) {
      const place = index.locate(address + done * PAGE_BYTES, pages - done);
      if (place === undefined) throw new GodwitError("corrupt", "pages that are said to be here and are not");
      const content = Buffer.allocUnsafe(place.pages * PAGE_BYTES);
      const bytes = readSync(sourceOf(place.file), content, 0, content.byteLength, place.offset);
      if (bytes !== content.byteLength) throw new GodwitError("internal", `${place.file} is too short`);
      for (let written = 0; written < bytes;) written += writeSync(target, content, written);
      done += place.pages;
    }
  }
  const runs: PagemapRun[] = [
    ...lazy.map((run) => ({ ...run, flags: PageFlag.lazy })),
    ...rest.map((run) => ({ ...run, flags: PageFlag.present })),
  ];
  runs.sort((a, b) => a.address - b.address);
  writeFileSync(`${folder}/${pagemapFileOf(space) ?? ""}`, encodePagemap(pagesId, runs), { mode: 0o600 });
}

/**
 * One process's list of pages when those that can be filled later have not come (post-copy): room is made for them.
 * Answers where each will lie.
 */
export async function writeFollowingList(
  folder: string,
  space: string,
  ranges: readonly AddressRange[],
  {
    pagesId,
    content,
    following,
  }: {
    readonly pagesId: number;
    readonly content: readonly Pages[];
    readonly following: readonly Pages[];
  },
): Promise<LastIndex> {
  if (!rises(following)) throw new GodwitError("corrupt", "runs of pages that are out of order");
  const { lazy, rest } = splitLazy(following, ranges);
  if (rest.length > 0 || splitLazy(content, ranges).lazy.length > 0)
    throw new GodwitError("corrupt", "pages that follow where none can, or the other way round");
  const runs: PagemapRun[] = [
    ...lazy.map((run) => ({ ...run, flags: PageFlag.lazy })),
    ...content.map((run) => ({ ...run, flags: PageFlag.present })),
  ];
  runs.sort((a, b) => a.address - b.address);
  await writeFile(`${folder}/${pagemapFileOf(space) ?? ""}`, encodePagemap(pagesId, runs), { mode: 0o600 });
  const index: LastIndex = { folder: ".", pagesId, runs: following, follows: true, gone: [] };
  await using file = await open(`${folder}/${pagesFileOf(index)}`, "wx", 0o600);
  await file.truncate(pagesOf(following) * PAGE_BYTES);
  return index;
}
