import { expect, test } from "vitest";

import { isTimeToFreeze, MAX_ROUNDS } from "./stop-rule.ts";

const round = (changedPages: number, pages = 100_000) => ({ pages, changedPages, tookMs: 10 });

test.each([
  ["nothing copied yet", [], false],
  ["a small container, all of it", [round(400, 400)], true],
  ["a large one, all of it", [round(100_000)], false],
  ["then a little", [round(100_000), round(300)], true],
  ["then still much", [round(100_000), round(20_000)], false],
  ["it shrinks", [round(100_000), round(20_000), round(9_000)], false],
  ["it shrinks no more", [round(100_000), round(20_000), round(19_000)], true],
  ["it grows", [round(100_000), round(20_000), round(40_000)], true],
  ["for ever", Array.from({ length: MAX_ROUNDS }, (_, index) => round(100_000 >> index)), true],
])("%s", (_, rounds, expected) => {
  expect(isTimeToFreeze(rounds)).toBe(expected);
});
