import { expect, test } from "vitest";

import { reportIntervalMs } from "./lease.ts";

test("nodes report each second, and more seldom where there are very many, but three times in a lease", () => {
  expect(reportIntervalMs(0, 15_000)).toBe(1_000);
  expect(reportIntervalMs(1_000, 15_000)).toBe(1_000);
  expect(reportIntervalMs(3_300, 15_000)).toBe(3_300);
  expect(reportIntervalMs(8_000, 15_000)).toBe(5_000);
  expect(reportIntervalMs(8_000, 2_000)).toBe(1_000);
});
