import { expect, test } from "vitest";

import { DirtyCurve } from "./dirty-curve.ts";
import { type CopiedRound, type CopyView, decideAfterRound, MAX_ROUNDS } from "./stop-rule.ts";

const round = (changedPages: number, more: Partial<CopiedRound> = {}): CopiedRound => ({
  pages: 100_000,
  changedPages,
  tookMs: 100,
  ...more,
});
const view = (rounds: CopiedRound[], more: Partial<CopyView> = {}): CopyView => ({
  rounds,
  standstillMs: 100,
  pageMs: 0.02,
  budgetMs: 0,
  canThrottle: true,
  ...more,
});
const kind = (...given: Parameters<typeof view>): string => decideAfterRound(view(...given)).kind;

test.each([
  ["nothing copied yet", [], "copy"],
  ["a small container, all of it", [round(400, { pages: 400 })], "freeze"],
  ["a large one, all of it", [round(100_000)], "copy"],
  ["then a little", [round(100_000), round(300)], "freeze"],
  ["then still much", [round(100_000), round(20_000)], "copy"],
  ["it shrinks", [round(100_000), round(20_000), round(9_000)], "copy"],
  ["it shrinks no more", [round(100_000), round(8_000), round(7_900)], "freeze"],
  ["it grows", [round(100_000), round(4_000), round(6_000)], "freeze"],
  [
    "it shrinks no more, with more than clients should wait for",
    [round(100_000), round(20_000), round(19_000)],
    "throttle",
  ],
  ["for ever", Array.from({ length: MAX_ROUNDS }, (_, index) => round(100_000 >> index)), "freeze"],
  ["faster than the link", [round(100_000), round(90_000), round(90_000)], "throttle"],
])("without a budget: %s", (_, rounds, expected) => {
  expect(kind(rounds)).toBe(expected);
});

test("what cannot be kept is refused before the first round", () => {
  expect(decideAfterRound(view([], { budgetMs: 60 }))).toEqual({ kind: "refuse", expectedMs: 100 });
});

test("a sample of what is written says after the first round what is left", () => {
  const quiet = new DirtyCurve([{ windowMs: 100, pages: 0 }], 100_000);
  expect(decideAfterRound(view([round(100_000)], { curve: quiet }))).toEqual({
    kind: "freeze",
    expectedMs: 100,
  });
});

test("what the kernel says is pending counts more than any estimate", () => {
  const rounds = [round(100_000), round(20_000)];
  expect(decideAfterRound(view(rounds, { pendingPages: 10 }))).toEqual({ kind: "freeze", expectedMs: 100.2 });
});

test("a container that outruns its budget is slowed down in steps, then refused", () => {
  const rounds = [round(100_000), round(20_000), round(20_000)];
  const paces: number[] = [];
  for (;;) {
    const decision = decideAfterRound(view(rounds, { budgetMs: 110 }));
    if (decision.kind === "throttle") paces.push(decision.cpuPercent);
    else if (decision.kind !== "copy") {
      expect(decision).toEqual({ kind: "refuse", expectedMs: 100 + 20_000 * 0.02 });
      break;
    }
    rounds.push(round(20_000, { cpuPercent: paces.at(-1) ?? 100 }));
  }
  expect(paces).toEqual([5]);
});

test("slowing down helps: it is frozen within its budget", () => {
  const rounds = [round(100_000), round(20_000), round(20_000)];
  const first = decideAfterRound(view(rounds, { budgetMs: 300 }));
  expect(first).toMatchObject({ kind: "throttle" });
  const cpuPercent = first.kind === "throttle" ? first.cpuPercent : 0;
  expect(cpuPercent).toBeGreaterThan(20);
  expect(cpuPercent).toBeLessThan(50);
  rounds.push(round(20_000, { cpuPercent }));
  expect(kind(rounds, { budgetMs: 300 })).toBe("copy");
  rounds.push(round((20_000 * cpuPercent) / 100, { cpuPercent }));
  rounds.push(round((20_000 * cpuPercent) / 100, { cpuPercent }));
  expect(kind(rounds, { budgetMs: 300 })).toBe("freeze");
});

test("without leave to slow it down, a budget that cannot be kept is refused", () => {
  const rounds = [round(100_000), round(20_000), round(20_000)];
  expect(kind(rounds, { budgetMs: 300, canThrottle: false })).toBe("refuse");
  expect(kind([...rounds, round(90_000)], { canThrottle: false })).toBe("freeze");
});
