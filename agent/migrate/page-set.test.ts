import fc from "fast-check";
import { expect, test } from "vitest";

import { PageSet } from "./page-set.ts";

test("it says of each page once that it is new", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.nat(100), fc.nat(2 ** 35))), (pages) => {
      const set = new PageSet();
      const known = new Set<number>();
      for (const page of pages) {
        expect(set.add(page * 4096)).toBe(!known.has(page));
        known.add(page);
      }
    }),
  );
});
