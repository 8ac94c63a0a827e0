import fc from "fast-check";
import { expect, test } from "vitest";

import { PageLedger } from "./page-ledger.ts";

test("a split covers all pages in order and says of each what the ledger says", () => {
  const runs = fc.array(fc.tuple(fc.integer({ min: 0, max: 2000 }), fc.integer({ min: 1, max: 900 })), {
    maxLength: 5,
  });
  fc.assert(
    fc.property(
      runs,
      fc.integer({ min: 0, max: 2500 }),
      fc.integer({ min: 1, max: 2500 }),
      (known, first, pages) => {
        const ledger = new PageLedger();
        for (const [start, count] of known)
          for (let page = start; page < start + count; page += 1) ledger.set("1-1", page, 7n);
        const found: boolean[] = [];
        let before: boolean | undefined;
        for (const piece of ledger.split("1-1", first, pages)) {
          expect(piece.first).toBe(first + found.length);
          expect(piece.known).not.toBe(before);
          before = piece.known;
          for (let index = 0; index < piece.pages; index += 1) found.push(piece.known);
        }
        expect(found).toEqual(
          Array.from({ length: pages }, (_, index) => ledger.get("1-1", first + index) !== 0n),
        );
      },
    ),
  );
});
