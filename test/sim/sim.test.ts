import { describe, expect, test } from "vitest";
import { PLANTED } from "./planted-bugs.ts";
import { runSeeds } from "./pool.ts";
import type { Outcome } from "./simulation.ts";

const SEEDS = 200;
/** Any; each run of the tests looks at the same ones, so that a failure is this change's. */
const FIRST_SEED = 50_001;

const run = async (seeds: readonly number[], bug?: string): Promise<Outcome[]> => {
  const outcomes: Outcome[] = [];
  await runSeeds(seeds, {
    threads: 2,
    ...(bug === undefined ? {} : { bug }),
    onOutcome: (outcome) => outcomes.push(outcome) > 0,
  });
  return outcomes.toSorted((a, b) => a.seed - b.seed);
};

describe("simulation", () => {
  test(`${SEEDS} seeds break no rule`, { timeout: 240_000 }, async () => {
    const outcomes = await run(Array.from({ length: SEEDS }, (_, at) => FIRST_SEED + at));
    const broken = outcomes
      .filter(({ violation }) => violation !== undefined)
      .map(({ seed, violation }) => `npm run sim -- --seed ${seed} --trace: ${violation}`);
    expect(broken).toEqual([]);
    expect(outcomes).toHaveLength(SEEDS);
    // It would find nothing in a cluster in which nothing happens.
    const sum = (kind: string): number => outcomes.reduce((all, { counts }) => all + (counts[kind] ?? 0), 0);
    for (const kind of [
      "migrationSwitched",
      "migrationAborted",
      "drainEnded",
      "leaderElected",
      "nodeRemoved",
    ])
      expect(sum(kind), kind).toBeGreaterThan(5);
  });

  test("a seed is the same run each time", { timeout: 60_000 }, async () => {
    const seeds = [3, 17, 58, 101];
    const [first, second] = [await run(seeds), await run(seeds.toReversed())];
    expect(second.map(({ traceHash }) => traceHash)).toEqual(first.map(({ traceHash }) => traceHash));
    expect(new Set(first.map(({ traceHash }) => traceHash)).size).toBe(seeds.length);
  });

  test("each planted bug is planted at a line that is there", { timeout: 120_000 }, async () => {
    for (const { name } of PLANTED) expect(await run([1], name), name).toHaveLength(1);
  });
});
