import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import fc from "fast-check";
import { expect, test } from "vitest";

import { PagemapEntry, PagemapHead } from "../../proto/gen/criu/images.ts";
import { PageFlag } from "../checkpoint/pagemap-image.ts";
import { IndexReader, readLastIndex } from "../filler/index-files.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { makeWhole } from "./criu-lists.ts";
import { encodePageRun, type PageKind } from "./page-run.ts";
import { PageStore } from "./page-store.ts";

const PAGES = 12;
const SPACES = ["1-1", "1-7", "2-3"];
const LIST_FILES: Readonly<Record<string, string>> = {
  "1-1": "pagemap-1.img",
  "1-7": "pagemap-7.img",
  "2-3": "pagemap-shmem-3.img",
};

/** Of each address space the pages that a round brings; and whether CRIU has named them out of order. */
const round = fc.record({
  spaces: fc.dictionary(fc.constantFrom(...SPACES), fc.uniqueArray(fc.nat(PAGES - 1), { maxLength: PAGES }), {
    maxKeys: SPACES.length,
  }),
  sorted: fc.boolean(),
});

async function* bodyOf(...pieces: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* pieces;
}

async function bring(store: PageStore, space: string, page: number, kind: PageKind, content: Buffer) {
  const address = page * PAGE_BYTES;
  const head = encodePageRun({ address, pages: 1, kind });
  await store.add(space, bodyOf(head, content), head.byteLength + content.byteLength);
}

/** A page that says everywhere which one it is. */
const filledWith = (number: number): Buffer =>
  Buffer.from(new Uint32Array(PAGE_BYTES / 4).fill(number).buffer);

function fillOf(content: Buffer, offset: number): number {
  const number = content.readUInt32LE(offset);
  return content.subarray(offset, offset + PAGE_BYTES).equals(filledWith(number)) ? number : -1;
}

/** All that CRIU would find for an address space, by page; as its page reader looks for it. */
function pagesIn(folder: string, list: string): Map<number, number> {
  const image = readFileSync(join(folder, list));
  const headBytes = image.readUInt32LE(8);
  const { pagesId } = PagemapHead.decode(image.subarray(12, 12 + headBytes));
  const content = readFileSync(join(folder, `pages-${pagesId}.img`));
  const pages = new Map<number, number>();
  let parent: Map<number, number> | undefined;
  let offset = 0;
  for (let at = 12 + headBytes; at < image.byteLength;) {
    const bytes = image.readUInt32LE(at);
    const { flags, nrPages, vaddr } = PagemapEntry.decode(image.subarray(at + 4, at + 4 + bytes));
    at += 4 + bytes;
    for (let index = 0; index < Number(nrPages); index += 1) {
      const page = Number(vaddr) / PAGE_BYTES + index;
      if (((flags ?? 0) & PageFlag.parent) !== 0) {
        parent ??= pagesIn(join(folder, "parent"), list);
        const found = parent.get(page);
        if (found === undefined) throw new Error(`page ${page} is not in the parent`);
        pages.set(page, found);
        continue;
      }
      pages.set(page, fillOf(content, offset));
      offset += PAGE_BYTES;
    }
  }
  expect(offset).toBe(content.byteLength);
  return pages;
}

/** The same as the filler finds it. */
function filledFrom(folder: string, space: string): Map<number, number> {
  const reader = new IndexReader(folder);
  reader.readRounds();
  const last = readLastIndex(folder)[space];
  if (last === undefined) throw new Error(`${space} has no index`);
  const there = reader.image.end(space, last);
  const pages = new Map<number, number>();
  for (const { address, pages: count } of there) {
    for (let done = 0; done < count;) {
      const place = reader.image.spaces.get(space)?.index.locate(address + done * PAGE_BYTES, count - done);
      if (place === undefined) throw new Error("a page is nowhere");
      const content = readFileSync(join(folder, place.file));
      for (let index = 0; index < place.pages; index += 1) {
        const offset = place.offset + index * PAGE_BYTES;
        pages.set(address / PAGE_BYTES + done + index, fillOf(content, offset));
      }
      done += place.pages;
    }
  }
  return pages;
}

test("CRIU and the filler find every page as it came last, and none that is gone", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(round, { maxLength: 4 }),
      round,
      fc.uniqueArray(fc.nat(PAGES - 1)),
      fc.boolean(),
      async (rounds, last, gone, isLazy) => {
        const folder = mkdtempSync(join(tmpdir(), "page-store-"));
        try {
          using store = new PageStore(folder);
          const expected = new Map(SPACES.map((space) => [space, new Map<number, number>()]));
          let number = 0;
          const take = async ({ sorted, spaces }: (typeof rounds)[number]): Promise<void> => {
            for (const [space, pages] of Object.entries(spaces)) {
              for (const page of sorted ? pages.toSorted((a, b) => a - b) : pages) {
                number += 1;
                expected.get(space)?.set(page, number);
                await bring(store, space, page, "content", filledWith(number));
              }
            }
          };
          for (const one of rounds) {
            await take(one);
            await store.endRound(false);
          }
          for (const space of SPACES) {
            for (const page of gone) {
              expected.get(space)?.delete(page);
              await bring(store, space, page, "gone", Buffer.alloc(0));
            }
            if (gone.length === 0)
              await store.add(space, bodyOf(encodePageRun({ address: 0, pages: 0, kind: "gone" })), 16);
          }
          await take(last);
          await store.endRound(true);
          // Without a mapping in them: nothing can be left to the filler, and CRIU has it all in one list.
          for (const pid of [1, 7]) writeFileSync(join(folder, `mm-${pid}.img`), Buffer.alloc(12));
          const total = expected.values().reduce((sum, { size }) => sum + size, 0);
          expect(await store.finish(isLazy)).toBe(total);
          if (isLazy) for (const [space, pages] of expected) expect(filledFrom(folder, space)).toEqual(pages);
          const check = (): void => {
            for (const [space, pages] of expected)
              expect(pagesIn(folder, LIST_FILES[space] ?? "")).toEqual(pages);
          };
          check();
          makeWhole(folder);
          makeWhole(folder);
          check();
          expect(readdirSync(folder)).not.toContain(`round-${rounds.length + 1}`);
        } finally {
          rmSync(folder, { recursive: true });
        }
      },
    ),
    { numRuns: 100 },
  );
});

test("what comes after the last round is refused", async () => {
  const folder = mkdtempSync(join(tmpdir(), "page-store-"));
  try {
    using store = new PageStore(folder);
    await bring(store, "1-1", 1, "content", Buffer.alloc(PAGE_BYTES, 1));
    await store.endRound(true);
    await expect(bring(store, "1-1", 2, "content", Buffer.alloc(PAGE_BYTES, 2))).rejects.toMatchObject({
      code: "corrupt",
    });
    await expect(store.endRound(false)).rejects.toMatchObject({ code: "corrupt" });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
