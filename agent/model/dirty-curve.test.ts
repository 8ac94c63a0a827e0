import fc from "fast-check";
import { expect, test } from "vitest";

import { DirtyCurve } from "./dirty-curve.ts";

const samples = fc.array(
  fc.record({ windowMs: fc.integer({ min: 1, max: 5_000 }), pages: fc.nat({ max: 1_000_000 }) }),
  { maxLength: 5 },
);

test("never falls with time, never exceeds the memory, and is nothing at once", () => {
  fc.assert(
    fc.property(samples, fc.nat({ max: 500_000 }), fc.nat(20_000), fc.nat(20_000), (all, memory, a, b) => {
      const curve = new DirtyCurve(all, memory);
      const [short, long] = [Math.min(a, b), Math.max(a, b)];
      expect(curve.pagesAfter(0)).toBe(0);
      expect(curve.pagesAfter(long)).toBeGreaterThanOrEqual(curve.pagesAfter(short) * (1 - 1e-9));
      expect(curve.pagesAfter(long)).toBeLessThanOrEqual(memory);
    }),
  );
});

test("never grows faster than time beyond its samples", () => {
  fc.assert(
    fc.property(samples, fc.double({ min: 1, max: 50, noNaN: true }), (all, factor) => {
      const curve = new DirtyCurve(all, Number.MAX_SAFE_INTEGER);
      expect(curve.pagesAfter(5_000 * factor)).toBeLessThanOrEqual(
        curve.pagesAfter(5_000) * factor * (1 + 1e-9),
      );
    }),
  );
});

test("goes through its samples, also where pages grow faster than time", () => {
  const sampled = [
    { windowMs: 100, pages: 1 },
    { windowMs: 5_000, pages: 1_000 },
  ];
  const curve = new DirtyCurve(sampled, 1_000_000);
  for (const { windowMs, pages } of sampled) expect(curve.pagesAfter(windowMs)).toBeCloseTo(pages);
  expect(curve.pagesAfter(5_001)).toBeCloseTo(1_000.2);
});

test("pages that are written again and again count once", () => {
  const curve = new DirtyCurve(
    [
      { windowMs: 100, pages: 900 },
      { windowMs: 400, pages: 1_000 },
    ],
    1_000_000,
  );
  expect(curve.pagesAfter(100)).toBe(900);
  expect(curve.pagesAfter(400)).toBeCloseTo(1_000);
  expect(curve.pagesAfter(4_000)).toBeLessThan(1_250);
});

test("fresh pages grow with time", () => {
  const curve = new DirtyCurve(
    [
      { windowMs: 100, pages: 100 },
      { windowMs: 400, pages: 400 },
    ],
    1_000_000,
  );
  expect(curve.pagesAfter(10_000)).toBeCloseTo(10_000);
});
