/**
 * npm run test:faults [-- --rows REGEXP] [--shard 1/2] [--times N] [--missing]: the whole fault matrix (or the rows whose
 * name the expression matches, or that have no right result yet), one after the other on a cluster of its own, N times
 * (1). Writes what it saw into test/faults/results.json and the tables of test/faults/README.md. Ends with 1 if anything
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
    shard: { type: "string" },
    times: { type: "string" },
    missing: { type: "boolean" },
  },
});
const wanted = new RegExp(values.rows ?? "");
const [shard = 1, shards = 1] = (values.shard ?? "1/1").split("/").map(Number);
const known = values.missing === true ? readResults() : {};
const isMissing = (row: Row): boolean => (known[rowName(row)]?.outcome ?? "wrong") === "wrong";
const chosen = ROWS.filter((row) => wanted.test(rowName(row)) && isMissing(row)).filter(
  (_, index) => index % shards === shard - 1,
);
const rows = Array.from({ length: Number(values.times ?? 1) }, () => chosen).flat();
const say = (text: string): void => void process.stdout.write(`${text}\n`);

let stopping = false;
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => (stopping = true));

const results: RowResult[] = [];
let laboratory = await Laboratory.open();
try {
  for (const [index, row] of rows.entries()) {
    if (stopping) break;
    const result = await runRow(laboratory, row);
    results.push(result);
    writeResults([result]);
    say(
      `${index + 1}/${rows.length} ${result.outcome} ${(result.tookMs / 1000).toFixed(1)} s · ${result.row}${result.words === "" ? "" : ` · ${result.words}`}`,
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
const wrong = results.filter(({ outcome }) => outcome === "wrong");
say(`${results.length} rows, ${wrong.length} wrong`);
for (const { row, words } of wrong) say(`  ${row}: ${words}`);
process.exitCode = wrong.length > 0 || stopping ? 1 : 0;
