import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { PAGE_BYTES, PageIndex, type RoundIndex } from "./page-index.ts";

const at = (page: number): number => page * PAGE_BYTES;
const run = (page: number, pages: number, hasContent: boolean) => ({ address: at(page), pages, hasContent });

describe("PageIndex", () => {
  const index = new PageIndex([
    { file: "last", runs: [run(10, 2, false), run(12, 1, true), run(13, 4, false)] },
    { file: "first", runs: [run(10, 3, true), run(13, 2, true), run(16, 1, true)] },
  ]);

  test.each<[string, number, number, ReturnType<PageIndex["locate"]>]>([
    ["a page that the last round brought", 12, 8, { file: "last", offset: 0, pages: 1 }],
    ["pages that the parent has", 10, 8, { file: "first", offset: 0, pages: 2 }],
    ["the middle of a run", 11, 8, { file: "first", offset: at(1), pages: 1 }],
    ["no more than lie side by side in the parent", 13, 8, { file: "first", offset: at(3), pages: 2 }],
    ["no more than were asked for", 13, 1, { file: "first", offset: at(3), pages: 1 }],
    ["a page that the parent was said to have and has not", 15, 1, undefined],
    ["a page of nobody", 99, 1, undefined],
  ])("%s", (_, page, pages, expected) => {
    expect(index.locate(at(page), pages)).toEqual(expected);
  });

  test("every page is found where the newest round that brought it put it", () => {
    const page = fc.record({ changed: fc.boolean(), there: fc.boolean() });
    fc.assert(
      fc.property(
        fc.array(fc.array(page, { minLength: 12, maxLength: 12 }), { minLength: 1, maxLength: 4 }),
        (rounds) => {
          const expected = new Map<number, { file: string; offset: number }>();
          const indexes: RoundIndex[] = [];
          let before = new Set<number>();
          rounds.forEach((pages, round) => {
            const file = `round-${round}`;
            let offset = 0;
            const runs: RoundIndex["runs"][number][] = [];
            const now = new Set<number>();
            pages.forEach(({ changed, there }, number) => {
              if (!there) return;
              const hasContent = changed || !before.has(number);
              runs.push(run(number, 1, hasContent));
              now.add(number);
              if (!hasContent) return;
              expected.set(number, { file, offset });
              offset += PAGE_BYTES;
            });
            before = now;
            indexes.unshift({ file, runs });
          });
          const found = new PageIndex(indexes);
          for (let number = 0; number < 12; number += 1) {
            const place = found.locate(at(number), 1);
            if (before.has(number)) expect(place).toMatchObject(expected.get(number) ?? {});
            else expect(place).toBeUndefined();
          }
        },
      ),
    );
  });
});
