import { expect, test } from "vitest";

import { RestartBackoff } from "../../proto/gen/godwit/v1/spec.ts";
import { hasRecovered, restartDelayMs } from "./restart-policy.ts";

const delays = (backoff: RestartBackoff | undefined, count: number): number[] =>
  Array.from({ length: count }, (_, quick) => restartDelayMs(quick, backoff));

test("the wait doubles up to the longest", () => {
  expect(delays(undefined, 8)).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  const backoff = RestartBackoff.fromPartial({ initialMs: 3_000, maxMs: 10_000 });
  expect(delays(backoff, 4)).toEqual([3_000, 6_000, 10_000, 10_000]);
  expect(delays(RestartBackoff.fromPartial({ maxMs: 600 }), 2)).toEqual([500, 600]);
  // Longer than the default of the longest: then it is always that.
  expect(delays(RestartBackoff.fromPartial({ initialMs: 90_000 }), 2)).toEqual([90_000, 90_000]);
  expect(restartDelayMs(1_000_000, undefined)).toBe(30_000);
});

test("one that ran for long enough has recovered", () => {
  expect([hasRecovered(60_000, undefined), hasRecovered(60_001, undefined)]).toEqual([false, true]);
  expect(hasRecovered(5_001, RestartBackoff.fromPartial({ resetAfterMs: 5_000 }))).toBe(true);
});
