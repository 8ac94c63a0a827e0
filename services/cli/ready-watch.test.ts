import { describe, expect, test } from "vitest";

import { ReadyWatch, type Look } from "./ready-watch.ts";

/** Looks a second apart; `away` seconds see a lease of 15 s run out. */
const looks = (...parts: readonly { readonly here?: number; readonly away?: number }[]): Look[] => {
  const all: Look[] = [];
  let leaseMs = 15_000;
  for (const { away = 0, here = 0 } of parts) {
    for (let second = 0; second < here; second += 1)
      all.push({ lost: false, leaseMs: (leaseMs = 14_900), atMs: all.length * 1_000 });
    for (let second = 0; second < away; second += 1) {
      leaseMs -= 1_000;
      all.push({ lost: leaseMs < 0, leaseMs, atMs: all.length * 1_000 });
    }
  }
  return all;
};
const readyAt = (hasToGo: boolean, seen: readonly Look[]): number => {
  const watch = new ReadyWatch(hasToGo);
  return seen.findIndex((look) => watch.see(look));
};

describe("a node is ready", () => {
  test("when its lease is renewed again and again", () => {
    expect(readyAt(false, looks({ here: 10 }))).toBe(3);
  });
  test("not while it only has a lease", () => {
    expect(readyAt(false, looks({ here: 2 }, { away: 14 }))).toBe(-1);
  });
  test("when it is back after it was lost", () => {
    expect(readyAt(false, looks({ here: 1 }, { away: 20 }, { here: 10 }))).toBeGreaterThanOrEqual(23);
  });
  test("not before it was away, where it has to restart", () => {
    expect(readyAt(true, looks({ here: 60 }))).toBe(-1);
    expect(readyAt(true, looks({ here: 10 }, { away: 7 }, { here: 10 }))).toBe(19);
    const watch = new ReadyWatch(true);
    for (const look of looks({ here: 10 })) watch.see(look);
    expect(watch.words).toMatch(/never away/);
  });
});
