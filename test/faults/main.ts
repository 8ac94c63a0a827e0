/**
 * npm run test:faults [-- --rows REGEXP] [--at-once N] [--times N] [--missing]: the whole fault matrix (or the rows whose
 * name the expression matches, or that have no right result yet), each so many times (1), on so many clusters at once (1):
 * most of a row is spent waiting for pauses and leases. Writes what it saw into test/faults/results.json and the tables of test/faults/README.md. Ends with 1 if anything
 * was wrong.
 */
import { parseArgs } from "node:util";

import { keepLogs } from "./kept-logs.ts";
import { Laboratory } from "./laboratory.ts";
import { readResults, writeResults } from "./report.ts";
import { type RowResult, runRow } from "./run-row.ts";
import { type Row, ROWS, rowName } from "./rows.ts";

const { values } = parseArgs({
  options: {
    rows: { type: "string" },
    "at-once": { type: "string" },
    times: { type: "string" },
    missing: { type: "boolean" },
  },
});
const wanted = new RegExp(values.rows ?? "");
const known = values.missing === true ? readResults() : {};
const isMissing = (row: Row): boolean => (known[rowName(row)]?.outcome ?? "wrong") === "wrong";
const chosen = ROWS.filter((row) => wanted.test(rowName(row)) && isMissing(row));
const rows = Array.from({ length: Number(values.times ?? 1) }, () => chosen).flat();
const say = (text: string): void => void process.stdout.write(`${text}\n`);

let stopping = false;
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => (stopping = true));

const results: RowResult[] = [];
const queue = rows.values();

/** Rows that nobody has taken yet, until there are none. */
async function work(): Promise<void> {
  let laboratory = await Laboratory.open();
  try {
    for (const row of queue) {
      if (stopping) break;
      const result = await runRow(laboratory, row);
      results.push(result);
      writeResults([result]);
      say(
        `${results.length}/${rows.length} ${result.outcome} ${(result.tookMs / 1000).toFixed(1)} s · ${result.row}${result.words === "" ? "" : ` · ${result.words}`}`,
      );
      if (result.outcome === "wrong") say(`  its logs: ${keepLogs(laboratory.cluster, result.row)}`);
      if (result.outcome === "wrong" || laboratory.isSpent) {
        // What is wrong with it must not spoil the rows to come.
        await laboratory[Symbol.asyncDispose]();
        laboratory = await Laboratory.open();
      }
    }
  } finally {
    await laboratory[Symbol.asyncDispose]();
  }
}

const ended = await Promise.allSettled(Array.from({ length: Number(values["at-once"] ?? 1) }, work));
for (const one of ended) if (one.status === "rejected") say(`a cluster: ${one.reason}`);
const wrong = results.filter(({ outcome }) => outcome === "wrong");
say(`${results.length} rows, ${wrong.length} wrong`);
for (const { row, words } of wrong) say(`  ${row}: ${words}`);
process.exitCode = wrong.length > 0 || results.length < rows.length ? 1 : 0;
