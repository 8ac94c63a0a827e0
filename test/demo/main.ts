/**
 * npm run demo [-- --keep]: three hosts on this machine, a redis with 100 MB under load, a live move and a drain,
 * and what a client noticed of it. Exits with 1 if anything was lost.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import Table from "cli-table3";

import { RedisClient } from "./client-process.ts";
import type { Window } from "./redis-client.ts";

const repo = fileURLToPath(new URL("../..", import.meta.url));
const cli = `${repo}services/cli/main.ts`;
const image = `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/images/redis.tar`;
const data = process.env["GODWIT_DEMO_DATA"] ?? "/var/lib/godwit-demo";
const api = `unix:${data}/run/api.sock`;
const megabytes = 100;

interface MoveResult {
  readonly from: string;
  readonly to: string;
  readonly mode: string;
  readonly state: string;
  readonly totalMs: number;
  readonly memoryBytes: number;
  readonly sentBytes: number;
  readonly blackoutMs: number;
  readonly error?: string;
}

/** Runs the command line as a user would; its standard output is the answer. */
async function godwit(...args: string[]): Promise<string> {
  const child = spawn(process.execPath, [cli, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, GODWIT_API: api },
  });
  let output = "";
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (text: string) => (output += text));
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`godwit ${args.join(" ")}: exit ${String(code)}`);
  return output;
}

async function json<T>(...args: string[]): Promise<T> {
  return JSON.parse(await godwit(...args, "-o", "json")) as T;
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const mebibytes = (bytes: number): string => `${(bytes / 1048576).toFixed(1)} MiB`;
const milliseconds = (value: number): string => `${value.toFixed(0)} ms`;

function isUnharmed(window: Window): boolean {
  return window.connections === 1 && window.wrong === 0 && window.lost === 0 && window.requests > 0;
}

async function demo(): Promise<boolean> {
  say("Importing the redis image and starting redis on n1 …");
  await godwit("image", "import", "redis", image);
  await godwit(
    ...["run", "--node", "n1", "--memory", "512m", "redis", "redis", "--"],
    ...["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""],
  );
  const { address } = await json<{ address: string }>("inspect", "redis");
  say(
    `redis has the address ${address}. A client on n3 stores ${megabytes} MB and then counts without pause …`,
  );
  await using client = new RedisClient([
    ...[process.execPath, cli, "dev", "exec", "--data", data, "n3", "--"],
    ...[process.execPath, `${repo}test/demo/redis-client.ts`, address],
  ]);
  await client.fill(megabytes);
  await client.mark();

  const rows: { what: string; move: MoveResult; window: Window }[] = [];
  say("Moving redis to n2 while the client counts …");
  const move = await json<MoveResult>("move", "redis", "n2");
  rows.push({ what: "move", move, window: await client.mark() });

  say("Draining n2 …");
  const drain = await json<{ moved: unknown[]; failed: unknown[]; remaining: unknown[] }>(
    "node",
    "drain",
    "n2",
  );
  const last = (await json<MoveResult[]>("migrations")).find((migration) => migration.from === "n2");
  const window = await client.mark();
  if (last !== undefined) rows.push({ what: "drain", move: last, window });
  const wrongKeys = await client.wrongKeys();

  const table = new Table({
    head: [
      "",
      "from → to",
      "mode",
      "blackout (client)",
      "total",
      "memory",
      "sent",
      "requests",
      "connection",
      "wrong",
      "lost",
    ],
    style: { head: [], border: [] },
  });
  for (const { what, move: result, window: seen } of rows) {
    table.push([
      what,
      `${result.from} → ${result.to}`,
      result.mode,
      milliseconds(seen.longestMs),
      milliseconds(result.totalMs),
      mebibytes(result.memoryBytes),
      mebibytes(result.sentBytes),
      seen.requests,
      seen.connections === 1 && seen.lost === 0 ? "kept" : "LOST",
      seen.wrong,
      seen.lost,
    ]);
  }
  say(table.toString());
  say(
    `Keys that differ from what was stored: ${wrongKeys}. Drained: ${drain.moved.length} moved, ${drain.failed.length} failed, ${drain.remaining.length} remaining.`,
  );
  return (
    rows.length === 2 &&
    rows.every((row) => isUnharmed(row.window) && row.move.state === "finished") &&
    wrongKeys === 0 &&
    drain.failed.length === 0 &&
    drain.remaining.length === 0
  );
}

const { values } = parseArgs({ options: { keep: { type: "boolean", default: false } } });
const startedAt = performance.now();
let good = false;
say("Starting a cluster of three hosts on this machine …");
await godwit("dev", "up", "--nodes", "3", "--data", data);
try {
  good = await demo();
} catch (error) {
  say(`The demo failed: ${error instanceof Error ? error.message : String(error)}`);
} finally {
  if (values.keep) {
    say(`The cluster stays up. Use it with:   export GODWIT_API=${api}`);
    say(`   godwit ps · godwit move redis n1 · godwit dev exec --data ${data} n3 -- sh`);
    say(`Take it down with:   godwit dev down --data ${data}`);
  } else await godwit("dev", "down", "--data", data);
}
say(
  `${good ? "Nothing was lost." : "SOMETHING WAS LOST."} ${((performance.now() - startedAt) / 1000).toFixed(1)} s.`,
);
process.exitCode = good ? 0 : 1;
