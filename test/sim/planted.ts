/** `npm run sim:planted`: looks for each planted bug, seed after seed, and writes what came of it into the README. */
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { PLANTED, type Planted } from "./planted-bugs.ts";
import { runSeeds } from "./pool.ts";

const SEEDS = 1_000;
const BEGIN = "<!-- planted bugs: written by npm run sim:planted -->";
const END = "<!-- end of planted bugs -->";

const { values } = parseArgs({
  options: { threads: { type: "string", default: "2" }, only: { type: "string" } },
});

interface Found {
  readonly bug: Planted;
  readonly seed: number | undefined;
  readonly violation: string;
}

const look = async (bug: Planted): Promise<Found> => {
  let found: { readonly seed: number; readonly violation: string } | undefined;
  await runSeeds(
    Array.from({ length: SEEDS }, (_, at) => at + 1),
    {
      threads: Number(values.threads),
      bug: bug.name,
      onOutcome: ({ seed, violation }) => {
        if (violation !== undefined && (found === undefined || seed < found.seed))
          found = { seed, violation: violation.split("\n")[0] ?? "" };
        return found === undefined;
      },
    },
  );
  process.stdout.write(
    `${bug.name}: ${found === undefined ? "NOT FOUND" : `seed ${found.seed}: ${found.violation}`}\n`,
  );
  return { bug, seed: found?.seed, violation: found?.violation ?? `not found in ${SEEDS} seeds` };
};

const cell = (text: string): string => text.replaceAll("|", "\\|");

const found: Found[] = [];
for (const bug of PLANTED)
  if (values.only === undefined || values.only === bug.name) found.push(await look(bug));

if (values.only === undefined) {
  const path = new URL("./README.md", import.meta.url);
  const text = await readFile(path, "utf8");
  const table = [
    "| bug | what is wrong | found by seed | as |",
    "| --- | --- | ---: | --- |",
    ...found.map(
      ({ bug, seed, violation }) =>
        `| ${bug.name} | ${cell(bug.what)} | ${seed ?? "–"} | ${cell(violation.slice(0, 160))} |`,
    ),
  ].join("\n");
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (begin < 0 || end < begin) throw new Error("the README has no place for the planted bugs");
  await writeFile(path, `${text.slice(0, begin)}${BEGIN}\n\n${table}\n\n${text.slice(end)}`);
}
process.exitCode = found.every(({ seed }) => seed !== undefined) ? 0 : 1;
