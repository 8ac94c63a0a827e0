import fc from "fast-check";
import { expect, test } from "vitest";

import { PageLedger } from "./page-ledger.ts";

const page = fc.integer({ min: 0, max: 2500 });
const pages = fc.array(fc.tuple(page, fc.integer({ min: 1, max: 900 })), { maxLength: 5 });

function pagesOf(ledger: PageLedger): number[] {
  return ledger
    .runs("1-1")
    .flatMap(({ address, pages: count }) =>
      Array.from({ length: count }, (_, index) => address / 4096 + index),
    );
}

test("its runs are the pages that it was told of, also of those that came after it was asked", () => {
  fc.assert(
    fc.property(pages, pages, fc.boolean(), (first, then, asked) => {
      const ledger = new PageLedger();
      const told = new Set<number>();
      const tell = (runs: readonly (readonly [number, number])[]): void => {
        for (const [start, count] of runs) {
          for (let at = start; at < start + count; at += 1) {
            ledger.set("1-1", at, 7n);
            told.add(at);
          }
        }
      };
      tell(first);
      if (asked) ledger.prepareRuns();
      tell(then);
      expect(pagesOf(ledger)).toEqual([...told].sort((a, b) => a - b));
      expect(ledger.pages).toBe(told.size);
    }),
  );
});
