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

test("a fork knows the same, and what it learns the one before does not", () => {
  fc.assert(
    fc.property(pages, pages, fc.boolean(), (first, then, asked) => {
      const before = new PageLedger();
      const model = new Map<number, bigint>();
      for (const [start, count] of first)
        for (let at = start; at < start + count; at += 1) {
          before.set("1-1", at, 7n);
          model.set(at, 7n);
        }
      if (asked) before.prepareRuns();
      const known = new Map(model);
      const fork = before.fork();
      for (const [start, count] of then)
        for (let at = start; at < start + count; at += 3) {
          fork.set("1-1", at, 9n);
          model.set(at, 9n);
        }
      for (let at = 0; at < 3_500; at += 1) {
        expect(fork.get("1-1", at)).toBe(model.get(at) ?? 0n);
        expect(before.get("1-1", at)).toBe(known.get(at) ?? 0n);
      }
      expect(pagesOf(fork)).toEqual([...model.keys()].sort((a, b) => a - b));
      expect(pagesOf(before)).toEqual([...known.keys()].sort((a, b) => a - b));
      expect([fork.pages, before.pages]).toEqual([model.size, known.size]);
    }),
    { numRuns: 30 },
  );
});
