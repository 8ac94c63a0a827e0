import { readFile } from "node:fs/promises";
import { stripTypeScriptTypes } from "node:module";
import { beforeAll, describe, expect, test } from "vitest";
import { FATES, type Fate } from "./conditions.ts";
import { plant } from "./hooks.ts";
import { PLANTED } from "./planted-bugs.ts";
import { runSeeds } from "./pool.ts";
import type { Outcome } from "./simulation.ts";

const SEEDS = 150;
/** Any; each run of the tests looks at the same ones, so that a failure is this change's. */
const FIRST_SEED = 50_001;

/** So many of them again, in a thread of their own and in another order. */
const AGAIN = 6;

const run = async (seeds: readonly number[], threads: number): Promise<Outcome[]> => {
  const outcomes: Outcome[] = [];
  await runSeeds(seeds, { threads, onOutcome: (outcome) => outcomes.push(outcome) > 0 });
  return outcomes.toSorted((a, b) => a.seed - b.seed);
};

describe("simulation", () => {
  const seeds = Array.from({ length: SEEDS }, (_, at) => FIRST_SEED + at);
  let outcomes: Outcome[] = [];
  beforeAll(async () => {
    outcomes = await run(seeds, 2);
  }, 600_000);

  test(`${SEEDS} seeds break no rule`, () => {
    const broken = outcomes
      .filter(({ violation }) => violation !== undefined)
      .map(({ seed, violation }) => `npm run sim -- --seed ${seed} --trace: ${violation}`);
    expect(broken).toEqual([]);
    expect(outcomes).toHaveLength(SEEDS);
  });

  // It would find nothing in a cluster in which nothing happens.
  const sum = (...kinds: string[]): number =>
    outcomes.reduce((all, { counts }) => all + kinds.reduce((of, kind) => of + (counts[kind] ?? 0), 0), 0);
  test.each([
    ["migrationSwitched", 50],
    ["migrationAborted", 50],
    // Some in a thousand seeds each.
    ["migrationReturned or migrationLost", 1],
    ["drainEnded", 50],
    ["leaderElected", 50],
    ["nodeRemoved", 5],
    ["checkpointStored", 50],
    ["balanceMeasured", 5],
  ])("%s happens in them at least %i times", (kind, times) => {
    expect(sum(...kind.split(" or "))).toBeGreaterThanOrEqual(times);
  });

  test.each([
    "report",
    "answer to a report",
    "order",
    "beat",
    "question for the leader",
    "append",
    "answer to an append",
    "log read",
    "snapshot or snapshot read",
    "notice of an entry",
  ])("a %s is lost and late, and where it can be doubled and overtaken", (kind) => {
    const isOfNats = /report|order|beat|leader/.test(kind);
    const fates: readonly Fate[] = isOfNats ? FATES : ["lost", "late"];
    for (const fate of fates)
      expect(sum(...kind.split(" or ").map((one) => `${one} ${fate}`)), fate).toBeGreaterThan(0);
  });

  test("a seed is the same run each time", { timeout: 120_000 }, async () => {
    const again = await run(seeds.slice(-AGAIN).toReversed(), 1);
    const first = outcomes.slice(-AGAIN);
    expect(again.map(({ traceHash }) => traceHash)).toEqual(first.map(({ traceHash }) => traceHash));
    expect(new Set(first.map(({ traceHash }) => traceHash)).size).toBe(AGAIN);
  });

  test.each(PLANTED)("the bug $name is planted at lines that are there, and can be loaded", async (bug) => {
    expect(bug.rewrites.length).toBeGreaterThan(0);
    for (const { file } of bug.rewrites) {
      const source = await readFile(new URL(`../../${file}`, import.meta.url), "utf8");
      const planted = plant(bug, file, source);
      expect(planted).not.toBe(source);
      expect(() => stripTypeScriptTypes(planted)).not.toThrow();
    }
  });
});
