import fc from "fast-check";
import { expect, test } from "vitest";

import {
  arrivalMs,
  bytesPerSecondTo,
  decodeCosts,
  departureMs,
  encodeCosts,
  learnArrival,
  learnDeparture,
  learnRate,
  startingCosts,
  unmeasuredRate,
} from "./move-costs.ts";

const size = (megabytes: number, processes = 1) => ({ memoryBytes: megabytes * 1e6, processes });
const RATE = 200e6;

test("a host of any speed is learnt from a few moves of different containers", () => {
  fc.assert(
    fc.property(
      fc.record({
        base: fc.integer({ min: 20, max: 400 }),
        perProcess: fc.integer({ min: 0, max: 20 }),
        perMegabyte: fc.double({ min: 0.02, max: 2, noNaN: true }),
      }),
      fc.array(fc.double({ min: -0.1, max: 0.1, noNaN: true }), { minLength: 12, maxLength: 12 }),
      ({ base, perProcess, perMegabyte }, noise) => {
        let costs = startingCosts();
        const truth = (megabytes: number, processes: number): number =>
          base + perProcess * (processes - 1) + perMegabyte * megabytes;
        for (const [index, off] of noise.entries()) {
          const [megabytes, processes] = [
            [4, 1],
            [128, 1],
            [566, 1],
            [128, 40],
          ][index % 4] as [number, number];
          costs = learnDeparture(
            costs,
            size(megabytes, processes),
            0,
            RATE,
            truth(megabytes, processes) * (1 + off),
          );
        }
        for (const [megabytes, processes] of [
          [128, 1],
          [566, 1],
          [128, 40],
        ] as const) {
          const expected = truth(megabytes, processes);
          const error =
            Math.abs(departureMs(costs, size(megabytes, processes), 0, RATE) - expected) / expected;
          expect(error).toBeLessThan(0.25);
        }
      },
    ),
  );
});

test("one move during which the host stood still does not spoil the expectation", () => {
  let costs = startingCosts();
  for (let count = 0; count < 10; count += 1) costs = learnArrival(costs, size(128), 120);
  costs = learnArrival(costs, size(128), 10_000);
  expect(arrivalMs(costs, size(128))).toBeLessThan(200);
});

test("a larger container, more processes and more changes never cost less, whatever was learnt", () => {
  const moves = fc.array(
    fc.tuple(fc.nat(2_000), fc.integer({ min: 1, max: 60 }), fc.nat(500), fc.nat(5_000)),
    {
      maxLength: 20,
    },
  );
  fc.assert(
    fc.property(moves, (all) => {
      let costs = startingCosts();
      for (const [megabytes, processes, changed, ms] of all)
        costs = learnDeparture(costs, size(megabytes, processes), changed * 1e6, RATE, ms);
      const small = departureMs(costs, size(100, 2), 1e6, RATE);
      expect(small).toBeGreaterThanOrEqual(0);
      expect(departureMs(costs, size(200, 2), 1e6, RATE)).toBeGreaterThanOrEqual(small);
      expect(departureMs(costs, size(100, 3), 1e6, RATE)).toBeGreaterThanOrEqual(small);
      expect(departureMs(costs, size(100, 2), 2e6, RATE)).toBeGreaterThan(small);
    }),
  );
});

test("what was learnt outlives the agent", () => {
  let costs = learnRate(learnRate(startingCosts(), "n2", 100e6), "n3", 50e6);
  costs = learnArrival(costs, size(64), 200);
  expect(decodeCosts(encodeCosts(costs))).toEqual(costs);
});

test.each([
  "",
  "{",
  "null",
  "[]",
  '{"departure":{"weights":[1],"covariance":[]},"peers":[["n2",-1],"n3",null]}',
])("a damaged file is as good as none: %s", (text) => {
  expect(decodeCosts(text)).toEqual(startingCosts());
});

test("the rate of a link is smoothed, and there is one for each peer", () => {
  let costs = learnRate(startingCosts(), "n2", 100e6);
  costs = learnRate(costs, "n2", 200e6);
  expect(bytesPerSecondTo(costs, "n2")).toBeCloseTo(130e6);
  expect(bytesPerSecondTo(costs, "n3")).toBeUndefined();
  expect(learnRate(costs, "n2", Infinity)).toBe(costs);
  for (let peer = 0; peer < 300; peer += 1) costs = learnRate(costs, `p${peer}`, 1e6);
  expect(costs.peers).toHaveLength(256);
});

test("a probed link is no faster than this host, and compression makes a slow one faster", () => {
  expect(unmeasuredRate(undefined, 1)).toBe(200e6);
  expect(unmeasuredRate(1e9, 1)).toBe(200e6);
  expect(unmeasuredRate(10e6, 0.5)).toBe(20e6);
});
