import { expect, test } from "vitest";

import { Pressure } from "../../proto/gen/godwit/v1/spec.ts";
import { OwnLimits, type LimitedContainer } from "./own-limits.ts";

const some = (share: number): Pressure =>
  Pressure.fromPartial({ cpuSome: { avg10: share, avg60: share, avg300: share } });

/** Seconds pass, of each of which the container is throttled for that share; what the host's pressure counts as then. */
function after(
  seconds: number,
  host: number,
  throttled: number,
  own: number | undefined,
  usedCores = 0,
): number {
  const limits = new OwnLimits();
  let usec = 0;
  let usedUsec = 0;
  const container: LimitedContainer = {
    id: "c",
    throttledUsec: () => usec,
    usedUsec: () => usedUsec,
    pressure: () => (own === undefined ? undefined : some(own)),
  };
  let left = some(host);
  for (let second = 0; second <= seconds; second += 1) {
    left = limits.without(some(host), [container], 1_000 * second);
    usec += throttled * 10_000;
    usedUsec += usedCores * 1e6;
  }
  return left.cpuSome?.avg10 ?? Number.NaN;
}

test("a container at its limit on an idle host is no pressure", () => {
  expect(after(60, 64, 83, 64)).toBe(0);
  // Without a word of the container's own pressure its throttling is all that explains.
  expect(after(60, 64, 83, undefined)).toBe(0);
});

test("what others wait is left", () => {
  // Nobody waits at 0.4 x 0.5 of the moments.
  expect(after(60, 80, 60, 60)).toBeCloseTo(50, 0);
  expect(after(60, 40, 0, 30)).toBe(40);
});

test("one of many threads at its limit does not hide that others wait too", () => {
  // Eight threads, two cores: each CPU that they would have is denied to them for three quarters of the time.
  expect(after(60, 99, 600, 99, 2)).toBeCloseTo(96, 0);
  expect(after(60, 75, 600, 75, 2)).toBeLessThan(1);
});

test("a group that counts as throttled while its tasks sleep explains nothing", () => {
  expect(after(60, 40, 100, 0)).toBe(40);
});

test("only the present counts, and a container that began anew does not go backwards", () => {
  const limits = new OwnLimits();
  const of = (usec: number): LimitedContainer => ({
    id: "c",
    throttledUsec: () => usec,
    usedUsec: () => 0,
    pressure: () => undefined,
  });
  // What was before it was first seen is not known.
  expect(limits.without(some(50), [of(9e9)], 0).cpuSome?.avg10).toBe(50);
  expect(limits.without(some(50), [of(9e9 + 1e6)], 1_000).cpuSome?.avg10).toBeCloseTo(44.7, 0);
  expect(limits.without(some(50), [of(0)], 61_000).cpuSome?.avg10).toBeCloseTo(50, 0);
  expect(limits.without(some(50), [], 62_000).cpuSome?.avg10).toBe(50);
});

test("other resources are left alone, and a kernel that does not measure the CPU's", () => {
  const io = Pressure.fromPartial({ ioSome: { avg10: 7 } });
  expect(new OwnLimits().without(io, [], 0)).toEqual(io);
});
