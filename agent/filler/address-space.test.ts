import { closeSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import koffi from "koffi";
import { afterEach, beforeEach, expect, test } from "vitest";

import { chooseFeatures, openUserfaultfd, register } from "../native/userfaultfd.ts";
import { AddressSpace } from "./address-space.ts";
import { ImageFiles } from "./image-files.ts";
import { ImagePages } from "./image-pages.ts";
import { PAGE_BYTES, PageIndex, pagesFileOf } from "./page-index.ts";

const libc = koffi.load(null);
const mmap = libc.func(
  "void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)",
);
const munmap = libc.func("int munmap(void *address, size_t length)");
const mincore = libc.func("int mincore(void *address, size_t length, _Out_ uint8_t *present)");
const READ_WRITE = 3;
const PRIVATE_ANONYMOUS = 0x22;
const REGISTER_MODE_MISSING = 1n;

const PAGES = 1024;
const BYTES = PAGES * PAGE_BYTES;

/** Memory of this very process that is missing: nothing here may read what is not in place. */
let area: unknown;
let start: number;
let memory: Buffer;
let space: AddressSpace;
let files: ImageFiles;
let folder: string;
let descriptor: number;

const content = Buffer.alloc(BYTES);
for (let page = 0; page < PAGES; page += 1)
  content.fill(page % 251, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
const pageAt = (page: number): number => start + page * PAGE_BYTES;

beforeEach(() => {
  area = mmap(null, BYTES, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
  start = Number(koffi.address(area));
  memory = Buffer.from(koffi.view(area, BYTES));
  descriptor = openUserfaultfd();
  chooseFeatures(descriptor, 0n);
  folder = mkdtempSync(join(tmpdir(), "godwit-address-space-"));
  const round = { folder: ".", pagesId: 1, runs: [{ address: start, pages: PAGES }] };
  writeFileSync(join(folder, pagesFileOf(round)), content);
  files = new ImageFiles(folder, [pagesFileOf(round)]);
  const index = new PageIndex();
  index.add(round);
  const image = new ImagePages(index, round.runs);
  const likely = [
    { start: pageAt(700), end: pageAt(800) },
    { start: pageAt(0), end: pageAt(300) },
  ];
  space = AddressSpace.restored(descriptor, image, files, likely);
});

afterEach(() => {
  if (!space.hasEnded) closeSync(descriptor);
  files[Symbol.dispose]();
  munmap(area, BYTES);
  rmSync(folder, { recursive: true });
});

const becomeReady = (): boolean => register(descriptor, { start, end: start + BYTES }, REGISTER_MODE_MISSING);

function pagesInPlace(): number[] {
  const present = new Uint8Array(PAGES);
  if (mincore(area, BYTES, present) !== 0) throw new Error(`mincore: errno ${koffi.errno()}`);
  return Array.from(present.keys()).filter((page) => ((present[page] ?? 0) & 1) === 1);
}

const pagesFrom = (first: number, end: number): number[] =>
  Array.from({ length: end - first }, (_, at) => first + at);

test("where a process will probably reach first is put in place first, then all else", () => {
  expect(becomeReady()).toBe(true);
  expect(space.anticipate()).toBe("done");
  expect(pagesInPlace()).toEqual(pagesFrom(700, 800));
  while (space.isAnticipating) expect(space.anticipate()).toBe("done");
  expect(pagesInPlace()).toEqual([...pagesFrom(0, 300), ...pagesFrom(700, 800)]);
  while (!space.isDone) expect(space.fill()).toBe("done");
  expect(pagesInPlace()).toHaveLength(PAGES);
  expect(memory.equals(content)).toBe(true);
});

test("a process whose mappings are not ready is tried again, and then filled as others are", () => {
  expect(space.anticipate()).toBe("nowhere");
  expect(space.isAnticipating).toBe(true);
  expect(becomeReady()).toBe(true);
  expect(space.anticipate()).toBe("done");
  expect(pagesInPlace()).toEqual(pagesFrom(700, 800));
  space.anticipateNoMore();
  expect(space.isAnticipating).toBe(false);
  while (!space.isDone) expect(space.fill()).toBe("done");
  expect(pagesInPlace()).toHaveLength(PAGES);
  expect(memory.equals(content)).toBe(true);
});
