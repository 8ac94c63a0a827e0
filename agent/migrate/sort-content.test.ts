import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";

import { expect, test } from "vitest";

import { sortContent } from "./sort-content.ts";

test("pages are put in the order of their addresses, each as it came last", async () => {
  const folder = mkdtempSync(`${tmpdir()}/sort-content-`);
  try {
    const page = (letter: string): Buffer => Buffer.alloc(4096, letter);
    const file = `${folder}/pages-1.img`;
    writeFileSync(file, Buffer.concat(["d", "e", "a", "b", "c", "x"].map(page)));
    const sorted = await sortContent(file, [
      { address: 0x4000, pages: 2 },
      { address: 0x1000, pages: 3 },
      { address: 0x5000, pages: 1 },
    ]);
    expect(sorted).toEqual([{ address: 0x1000, pages: 5 }]);
    expect(readFileSync(file)).toEqual(Buffer.concat(["a", "b", "c", "d", "x"].map(page)));
    expect(readdirSync(folder)).toEqual(["pages-1.img"]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
