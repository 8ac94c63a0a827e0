import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { ImageIndex } from "./image-index.ts";
import { PAGE_BYTES, PageIndex } from "./page-index.ts";

const at = (page: number): number => page * PAGE_BYTES;
const run = (page: number, pages: number) => ({ address: at(page), pages });

describe("PageIndex", () => {
  const index = new PageIndex();
  index.add({ folder: "round-1", pagesId: 1, runs: [run(10, 3), run(13, 2), run(16, 1)] });
  index.add({ folder: ".", pagesId: 2, runs: [run(12, 1), run(17, 1)] });
  const [first, last] = ["round-1/pages-1.img", "./pages-2.img"];

  test.each<[string, number, number, ReturnType<PageIndex["locate"]>]>([
    ["a page that the last round brought", 12, 8, { file: last, offset: 0, pages: 1 }],
    ["pages up to what was brought later", 10, 8, { file: first, offset: 0, pages: 2 }],
    ["the middle of a run", 11, 8, { file: first, offset: at(1), pages: 1 }],
    ["no more than lie side by side", 13, 8, { file: first, offset: at(3), pages: 2 }],
    ["no more than were asked for", 13, 1, { file: first, offset: at(3), pages: 1 }],
    ["behind all others in its file", 17, 8, { file: last, offset: at(1), pages: 1 }],
    ["a page that nobody brought", 15, 1, undefined],
    ["a page of nobody", 99, 1, undefined],
  ])("%s", (_, page, pages, expected) => {
    expect(index.locate(at(page), pages)).toEqual(expected);
  });
});

test("all pages are there but those that are gone, each where the latest round that brought it put it", () => {
  const PAGES = 16;
  const round = fc.array(fc.boolean(), { minLength: PAGES, maxLength: PAGES });
  const single = (brought: readonly boolean[]) => brought.flatMap((is, page) => (is ? [run(page, 1)] : []));
  fc.assert(
    fc.property(fc.array(round, { maxLength: 4 }), round, round, (rounds, last, gone) => {
      const image = new ImageIndex();
      const expected = new Map<number, { file: string; offset: number }>();
      const note = (file: string, brought: readonly boolean[]): void => {
        let offset = 0;
        brought.forEach((is, page) => {
          if (!is) return;
          expected.set(page, { file, offset });
          offset += PAGE_BYTES;
        });
      };
      rounds.forEach((brought, number) => {
        image.add("1-1", { folder: `round-${number}`, pagesId: number, runs: single(brought) });
        note(`round-${number}/pages-${number}.img`, brought);
      });
      gone.forEach((is, page) => is && expected.delete(page));
      note("./pages-9.img", last);
      const there = image.end("1-1", { folder: ".", pagesId: 9, runs: single(last), gone: single(gone) });
      const index = image.spaces.get("1-1")?.index;
      const found = there.flatMap(({ address, pages }) =>
        Array.from({ length: pages }, (_, number) => address / PAGE_BYTES + number),
      );
      expect(found).toEqual([...expected.keys()].sort((a, b) => a - b));
      const all = [...(index?.locateAll(there) ?? [])].flatMap(({ file, offset, pages }) =>
        Array.from({ length: pages }, (_, number) => ({ file, offset: offset + at(number) })),
      );
      expect(all).toEqual(found.map((page) => expected.get(page)));
      for (const [page, place] of expected) {
        const most = PAGES - page;
        const located = index?.locate(at(page), most);
        expect(located).toMatchObject(place);
        // What lies side by side there is what the following pages are.
        for (let number = 1; number < (located?.pages ?? 0); number += 1) {
          const next = expected.get(page + number);
          if (next !== undefined)
            expect(next).toEqual({ file: place.file, offset: place.offset + at(number) });
        }
      }
    }),
  );
});
