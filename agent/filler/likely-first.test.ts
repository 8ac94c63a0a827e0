import fc from "fast-check";
import { expect, test } from "vitest";

import { likelyFirst } from "./likely-first.ts";
import { PAGE_BYTES, type RoundIndex } from "./page-index.ts";

const HALF = 512 * 1024;
const round = (...runs: { address: number; pages: number }[]): RoundIndex => ({
  folder: ".",
  pagesId: 1,
  runs,
});
const at = (neighbourhood: number, page = 0): number => neighbourhood * HALF + page * PAGE_BYTES;
const starts = (rounds: readonly RoundIndex[]): number[] =>
  likelyFirst(rounds).map(({ start }) => start / HALF);

test("what was written last comes first, with what is around it, and once", () => {
  const rounds = [
    round({ address: at(1), pages: 4000 }),
    round({ address: at(3, 7), pages: 2 }, { address: at(9, 127), pages: 2 }),
    round({ address: at(9), pages: 1 }),
  ];
  expect(starts(rounds)).toEqual([9, 3, 10]);
  expect(likelyFirst(rounds)[0]).toEqual({ start: at(9), end: at(10) });
});

test("the first round brings all that there is and says nothing", () => {
  expect(likelyFirst([round({ address: at(1), pages: 4000 })])).toEqual([]);
  expect(likelyFirst([])).toEqual([]);
});

test("of a process that writes much it is a bounded part", () => {
  expect(likelyFirst([round(), round({ address: at(1), pages: 1_000_000 })])).toHaveLength(32);
});

test("whatever was written since the first round is in it, as long as there is room", () => {
  const runs = fc.array(
    fc.record({ address: fc.nat(20 * 128).map((page) => page * PAGE_BYTES), pages: fc.nat(200) }),
  );
  fc.assert(
    fc.property(fc.array(runs), (written) => {
      const likely = likelyFirst([round(), ...written.map((runs) => round(...runs))]);
      for (const { address, pages } of written.flat())
        for (let page = address; page < address + pages * PAGE_BYTES; page += PAGE_BYTES)
          expect(likely.some(({ start, end }) => start <= page && page < end)).toBe(true);
    }),
  );
});
