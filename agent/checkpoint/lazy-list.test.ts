import fc from "fast-check";
import { expect, test } from "vitest";

import { splitLazy } from "./lazy-list.ts";

const LIMIT = 60;
const pages = fc.uniqueArray(fc.nat(LIMIT), { maxLength: 40 });

test("in each range one run from its first page to its last, and what is in none as it is", () => {
  fc.assert(
    fc.property(
      pages,
      fc.uniqueArray(fc.nat(LIMIT), { maxLength: 12 }),
      fc.boolean(),
      (set, borders, join) => {
        const sorted = set.toSorted((a, b) => a - b);
        const runs: { address: number; pages: number }[] = [];
        for (const page of sorted) {
          const last = runs.at(-1);
          if (join && last !== undefined && last.address + last.pages * 4096 === page * 4096) last.pages += 1;
          else runs.push({ address: page * 4096, pages: 1 });
        }
        const edges = borders.toSorted((a, b) => a - b);
        const ranges: { start: number; end: number }[] = [];
        for (let at = 0; at + 1 < edges.length; at += join ? 1 : 2)
          ranges.push({ start: (edges[at] ?? 0) * 4096, end: (edges[at + 1] ?? 0) * 4096 });
        const { lazy, rest } = splitLazy(runs, ranges);
        const inside = (page: number, { start, end }: { start: number; end: number }): boolean =>
          start <= page * 4096 && page * 4096 < end;
        expect(lazy).toEqual(
          ranges.flatMap((range) => {
            const mine = sorted.filter((page) => inside(page, range));
            const [first] = mine;
            return first === undefined
              ? []
              : [{ address: first * 4096, pages: (mine.at(-1) ?? first) - first + 1 }];
          }),
        );
        const left = rest.flatMap(({ address, pages: count }) =>
          Array.from({ length: count }, (_, index) => address / 4096 + index),
        );
        expect(left).toEqual(sorted.filter((page) => !ranges.some((range) => inside(page, range))));
      },
    ),
  );
});
