import fc from "fast-check";
import { expect, test } from "vitest";

import { forecastMove, type MoveTerms } from "./forecast.ts";
import { startingCosts } from "./move-costs.ts";

const PAGES_PER_MB = 1e6 / 4096;

/** `writes` in MB a second, over fresh pages. */
const terms = (megabytes: number, writes: number, more: Partial<MoveTerms> = {}): MoveTerms => ({
  subject: {
    memoryPages: Math.round(megabytes * PAGES_PER_MB),
    processes: 1,
    filesystemBytes: 0,
    dirty: [50, 200, 800].map((windowMs) => ({ windowMs, pages: (writes * PAGES_PER_MB * windowMs) / 1000 })),
    compressedShare: 0.5,
  },
  costs: startingCosts(),
  arrivalMs: 120,
  bytesPerSecond: 200e6,
  mode: "precopy",
  budgetMs: 0,
  canThrottle: true,
  ...more,
});

const megabytes = fc.integer({ min: 1, max: 8_000 });
const writes = fc.integer({ min: 0, max: 2_000 });
const budget = fc.integer({ min: 0, max: 3_000 });

test("every forecast is a number of its kind, and comes to an end", () => {
  fc.assert(
    fc.property(megabytes, writes, budget, fc.boolean(), (memory, rate, budgetMs, canThrottle) => {
      const found = forecastMove(terms(memory, rate, { budgetMs, canThrottle }));
      for (const value of Object.values(found).filter((one) => typeof one === "number")) {
        expect(Number.isFinite(value)).toBe(true);
        expect(value).toBeGreaterThanOrEqual(0);
      }
      // Protobuf takes no half bytes.
      for (const bytes of [found.memoryBytes, found.copiedBytes, found.sentBytes])
        expect(Number.isSafeInteger(bytes)).toBe(true);
      expect(found.rounds).toBeLessThan(60);
      expect(found.totalMs).toBeGreaterThanOrEqual(found.blackoutMs);
    }),
  );
});

test("a move that is not refused keeps its budget", () => {
  fc.assert(
    fc.property(megabytes, writes, fc.integer({ min: 1, max: 3_000 }), (memory, rate, budgetMs) => {
      const { isRefused, blackoutMs } = forecastMove(terms(memory, rate, { budgetMs }));
      if (!isRefused) expect(blackoutMs).toBeLessThanOrEqual(budgetMs);
    }),
  );
});

test("a larger budget never refuses what a smaller one allows", () => {
  fc.assert(
    fc.property(megabytes, writes, budget, (memory, rate, budgetMs) => {
      const smaller = forecastMove(terms(memory, rate, { budgetMs: budgetMs + 1 }));
      const larger = forecastMove(terms(memory, rate, { budgetMs: budgetMs + 500 }));
      if (!smaller.isRefused) expect(larger.isRefused).toBe(false);
    }),
  );
});

test("rounds while it runs never make the blackout of a quiet container longer", () => {
  fc.assert(
    fc.property(megabytes, (memory) => {
      const rounds = forecastMove(terms(memory, 0));
      const stop = forecastMove(terms(memory, 0, { mode: "checkpoint" }));
      expect(rounds.blackoutMs).toBeLessThan(stop.blackoutMs);
    }),
  );
});

test("a faster link never makes the blackout of a checkpoint longer", () => {
  fc.assert(
    fc.property(megabytes, writes, (memory, rate) => {
      const slow = forecastMove(terms(memory, rate, { mode: "checkpoint", bytesPerSecond: 50e6 }));
      const fast = forecastMove(terms(memory, rate, { mode: "checkpoint", bytesPerSecond: 500e6 }));
      expect(fast.blackoutMs).toBeLessThan(slow.blackoutMs);
    }),
  );
});

test("a container that outruns the link is slowed down, or refused", () => {
  const slowed = forecastMove(terms(2_000, 400, { budgetMs: 1_400 }));
  expect(slowed).toMatchObject({ isRefused: false });
  expect(slowed.cpuPercent).toBeLessThan(100);
  expect(forecastMove(terms(2_000, 400, { budgetMs: 1_400, canThrottle: false }))).toMatchObject({
    isRefused: true,
    cpuPercent: 100,
  });
});
