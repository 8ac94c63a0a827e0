/**
 * `npm run sim -- --seeds 10000 [--from N] [--threads N]`: many seeds; the first violation of each is told at the end.
 * `npm run sim -- --seed S [--trace]`: one seed, twice, with its trace.
 */
import { parseArgs } from "node:util";
import { runSeeds } from "./pool.ts";
import type { Outcome } from "./simulation.ts";

const SHOWN_LINES = 60;
const PROGRESS_EVERY = 500;

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "1000" },
    from: { type: "string", default: "1" },
    threads: { type: "string", default: "2" },
    seed: { type: "string" },
    trace: { type: "boolean", default: false },
    bug: { type: "string" },
  },
});

const print = (line: string): void => void process.stdout.write(`${line}\n`);

const oneSeed = async (seed: number): Promise<boolean> => {
  const outcomes: Outcome[] = [];
  await runSeeds([seed], {
    threads: 1,
    keepLines: values.trace ? Infinity : SHOWN_LINES,
    ...(values.bug === undefined ? {} : { bug: values.bug }),
    onOutcome: (outcome) => outcomes.push(outcome) > 0,
  });
  await runSeeds([seed], {
    threads: 1,
    ...(values.bug === undefined ? {} : { bug: values.bug }),
    onOutcome: (outcome) => outcomes.push(outcome) > 0,
  });
  const [first, second] = outcomes;
  if (first === undefined || second === undefined) throw new Error(`seed ${seed} did not run`);
  for (const line of first.lines) print(line);
  print(
    `seed ${seed}: ${first.violation ?? "no violation"} (${first.events} events, ${first.entries} entries, ${Math.round(first.virtualMs / 1_000)} s, trace ${first.traceHash.slice(0, 16)})`,
  );
  const isSame = first.traceHash === second.traceHash;
  print(
    isSame ? "a second run was the same" : `a second run was another one: ${second.traceHash.slice(0, 16)}`,
  );
  return isSame && first.violation === undefined;
};

const manySeeds = async (from: number, count: number): Promise<boolean> => {
  const failed: Outcome[] = [];
  const counts = new Map<string, number>();
  let done = 0;
  let events = 0;
  const startedMs = Date.now();
  await runSeeds(
    Array.from({ length: count }, (_, at) => from + at),
    {
      threads: Number(values.threads),
      ...(values.bug === undefined ? {} : { bug: values.bug }),
      onOutcome: (outcome) => {
        done += 1;
        events += outcome.events;
        for (const [kind, number] of Object.entries(outcome.counts))
          counts.set(kind, (counts.get(kind) ?? 0) + number);
        if (outcome.violation !== undefined) {
          failed.push(outcome);
          print(`seed ${outcome.seed}: ${outcome.violation.split("\n")[0] ?? ""}`);
        }
        if (done % PROGRESS_EVERY === 0)
          print(
            `${done} seeds, ${failed.length} with a violation, ${Math.round((Date.now() - startedMs) / 1_000)} s`,
          );
        return true;
      },
    },
  );
  for (const [kind, number] of [...counts].toSorted(([a], [b]) => (a < b ? -1 : 1)))
    print(`${String(number).padStart(10)} ${kind}`);
  const seconds = (Date.now() - startedMs) / 1_000;
  print(
    `${done} seeds (${from} to ${from + count - 1}), ${events} events in ${seconds.toFixed(0)} s: ${failed.length} with a violation${failed.length === 0 ? "" : `; see one with: npm run sim -- --seed ${failed[0]?.seed ?? 0} --trace`}`,
  );
  return failed.length === 0;
};

const isFine =
  values.seed === undefined
    ? await manySeeds(Number(values.from), Number(values.seeds))
    : await oneSeed(Number(values.seed));
process.exitCode = isFine ? 0 : 1;
