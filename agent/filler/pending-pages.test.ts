import fc from "fast-check";
import { expect, test } from "vitest";

import { PAGE_BYTES } from "./page-index.ts";
import { PendingPages, type PendingRange, type Present } from "./pending-pages.ts";

const PAGES = 40;
const at = (page: number): number => page * PAGE_BYTES;

type Step =
  | { readonly kind: "take"; readonly from: number; readonly pages: number }
  | { readonly kind: "move"; readonly from: number; readonly to: number; readonly pages: number };

const place = fc.integer({ min: 0, max: PAGES - 1 });
const count = fc.integer({ min: 1, max: 12 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant("take" as const), from: place, pages: count }),
  fc
    .record({ kind: fc.constant("move" as const), from: place, to: place, pages: count })
    // The kernel moves nothing onto itself.
    .filter(({ from, to, pages }) => Math.abs(from - to) >= pages),
);

/** One address a page, and what of the image belongs there. */
function asMap(ranges: readonly PendingRange[]): Map<number, number> {
  const pages = new Map<number, number>();
  let last = -1;
  for (const { start, end, page } of ranges) {
    expect(start).toBeLessThan(end);
    expect(start).toBeGreaterThanOrEqual(last);
    last = end;
    for (let address = start; address < end; address += PAGE_BYTES)
      pages.set(address / PAGE_BYTES, page + (address - start) / PAGE_BYTES);
  }
  return pages;
}

test("a process's missing pages are followed through all that it does with its mappings", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(place, { maxLength: 30 }),
      fc.array(step, { maxLength: 30 }),
      (missing, steps) => {
        const sorted = missing.toSorted((a, b) => a - b);
        const pending = new PendingPages(
          sorted.map((number, index) => ({ start: at(number), end: at(number + 1), page: 100 + index })),
        );
        const model = new Map(sorted.map((number, index) => [number, 100 + index]));
        for (const one of steps) {
          const inside = ([number]: [number, number], from: number): boolean =>
            number >= from && number < from + one.pages;
          if (one.kind === "take") {
            const expected = new Map([...model].filter((entry) => inside(entry, one.from)));
            expect(asMap(pending.take(at(one.from), at(one.from + one.pages)))).toEqual(expected);
            for (const number of expected.keys()) model.delete(number);
          } else {
            const moved = [...model].filter((entry) => inside(entry, one.from));
            const lost = new Map([...model].filter((entry) => inside(entry, one.to)));
            expect(asMap(pending.move(at(one.from), at(one.to), at(one.pages)))).toEqual(lost);
            for (const number of [...moved.map(([number]) => number), ...lost.keys()]) model.delete(number);
            for (const [number, page] of moved) model.set(number + one.to - one.from, page);
          }
          expect(asMap(pending.ranges)).toEqual(model);
          expect(pending.isEmpty).toBe(model.size === 0);
          for (let number = 0; number < PAGES; number += 1)
            expect(pending.find(at(number)) !== undefined).toBe(model.has(number));
        }
      },
    ),
  );
});

test("what comes next is at or behind an address, and at the beginning when nothing is", () => {
  const pending = new PendingPages([
    { start: at(2), end: at(6), page: 0 },
    { start: at(9), end: at(10), page: 4 },
  ]);
  expect(pending.next(at(0), 2)).toEqual({ start: at(2), end: at(4), page: 0 });
  expect(pending.next(at(4), 8)).toEqual({ start: at(4), end: at(6), page: 2 });
  expect(pending.next(at(6), 8)).toEqual({ start: at(9), end: at(10), page: 4 });
  expect(pending.next(at(10), 1)).toEqual({ start: at(2), end: at(3), page: 0 });
  expect(new PendingPages([]).next(0, 1)).toBeUndefined();
});

test("what comes next is of those that are present only, wherever they are", () => {
  const pending = new PendingPages([
    { start: at(2), end: at(6), page: 0 },
    { start: at(9), end: at(12), page: 4 },
  ]);
  const only =
    (...numbers: number[]): Present =>
    (page, pages) => {
      const first = numbers.find((one) => one >= page && one < page + pages);
      return first === undefined ? undefined : { skipped: first - page, pages: 1 };
    };
  expect(pending.next(at(0), 8, only(3))).toEqual({ start: at(5), end: at(6), page: 3 });
  expect(pending.next(at(4), 8, only(1))).toEqual({ start: at(3), end: at(4), page: 1 });
  expect(pending.next(at(4), 8, only(1, 5))).toEqual({ start: at(10), end: at(11), page: 5 });
  expect(pending.next(at(11), 8, only(5))).toEqual({ start: at(10), end: at(11), page: 5 });
  expect(pending.next(at(0), 8, only())).toBeUndefined();
});
