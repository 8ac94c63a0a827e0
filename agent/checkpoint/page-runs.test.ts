import fc from "fast-check";
import { expect, test } from "vitest";

import { type Pages, union, without } from "./page-runs.ts";

const LIMIT = 60;

/** Runs that rise and do not overlap, from the set of their pages. */
function runsOf(pages: ReadonlySet<number>): Pages[] {
  const runs: { address: number; pages: number }[] = [];
  for (let page = 0; page < LIMIT; page += 1) {
    if (!pages.has(page)) continue;
    if (pages.has(page - 1)) (runs.at(-1) as { pages: number }).pages += 1;
    else runs.push({ address: page * 4096, pages: 1 });
  }
  return runs;
}

const pageSet = fc.uniqueArray(fc.integer({ min: 0, max: LIMIT - 1 })).map((pages) => new Set(pages));

test("union and difference are those of the sets of pages", () => {
  fc.assert(
    fc.property(pageSet, pageSet, (a, b) => {
      expect(union(runsOf(a), runsOf(b))).toEqual(runsOf(a.union(b)));
      expect(without(runsOf(a), runsOf(b))).toEqual(runsOf(a.difference(b)));
    }),
  );
});
