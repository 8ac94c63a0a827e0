import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import fc from "fast-check";
import { expect, test } from "vitest";

import { PageIndex } from "../filler/page-index.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { Superseded } from "./superseded.ts";

const PAGES = 24;

test("of what later rounds bring anew the old content goes, and nothing else", () => {
  const round = fc.array(fc.boolean(), { minLength: PAGES, maxLength: PAGES });
  fc.assert(
    fc.property(fc.array(round, { minLength: 1, maxLength: 5 }), (rounds) => {
      const folder = mkdtempSync(join(tmpdir(), "superseded-"));
      try {
        using superseded = new Superseded(folder);
        const index = new PageIndex();
        const newest = new Map<number, number>();
        const copies: { file: string; page: number; value: number; offset: number }[] = [];
        rounds.forEach((brought, number) => {
          const file = `./pages-${number}.img`;
          const content: number[] = [];
          brought.forEach((is, page) => is && content.push(page));
          content.forEach((page, index) => {
            copies.push({ file, page, value: number + 1, offset: index * PAGE_BYTES });
          });
          writeFileSync(
            join(folder, file),
            Buffer.concat(content.map(() => Buffer.alloc(PAGE_BYTES, number + 1))),
          );
          superseded.note(
            index,
            content.map((page) => ({ address: page * PAGE_BYTES, pages: 1 })),
          );
          for (const page of content) newest.set(page, number + 1);
          const runs = content.map((page) => ({ address: page * PAGE_BYTES, pages: 1 }));
          index.add({ folder: ".", pagesId: number, runs });
          superseded.giveBackAbove(0);
        });
        const buffer = Buffer.alloc(1);
        const read = (file: string, offset: number): number => {
          const descriptor = openSync(join(folder, file), "r");
          readSync(descriptor, buffer, 0, 1, offset);
          closeSync(descriptor);
          return buffer[0] ?? -1;
        };
        for (const [page, value] of newest) {
          const place = index.locate(page * PAGE_BYTES, 1);
          expect(place).toBeDefined();
          expect(read(place?.file ?? "", place?.offset ?? 0)).toBe(value);
        }
        for (const { file, page, value, offset } of copies)
          expect(read(file, offset)).toBe(newest.get(page) === value ? value : 0);
      } finally {
        rmSync(folder, { recursive: true });
      }
    }),
  );
});
