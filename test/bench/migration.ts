/**
 * npm run bench:migration [-- --quick] [--sizes 4,128,566] [--rates 0,10] [--processes 1,40] [--rounds N]
 *                               [--only METHODS] [--modes MODES] [--json FILE]
 *
 * What a client feels while a redis of a given size moves between two hosts, by Godwit and by what one would use
 * without it, in one run on one machine. The stall is the longest that one request of the client waited.
 *
 *   godwit    `godwit move` in mode auto and in mode checkpoint
 *   runc      `runc checkpoint` + `runc restore`, images on a tmpfs that both hosts see
 *   podman    `podman container checkpoint -e --compress zstd` + `restore -i`, the archive on that tmpfs
 *
 * All of them run on the same two hosts (n1, n2) of one cluster of the bench's own, with the client on n3, one open
 * connection and the same CRIU. The baselines have it easier: their files cross no network, both hosts have the root
 * file system already, and the way to their container is a route without VXLAN. Their network is made ready
 * beforehand.
 *
 *   --quick     sizes 4 and 64, rate 0, 3 rounds, unless given
 *   --sizes     megabytes of keys
 *   --rates     megabytes a second that a second connection overwrites meanwhile
 *   --processes that share the size between them (1); more than one is measured of Godwit alone
 *   --rounds    moves that count, for each method (10); one before them does not
 *   --only      some of godwit,runc,podman
 *   --modes     of Godwit's: auto,checkpoint
 *   --json      where the figures of each move go (dist/bench-migration.json, which git ignores)
 *
 * It asserts nothing about time. What is not installed is said and left out. It exits with 1 only when it could not
 * measure Godwit; Ctrl-C takes everything down.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { dirname, resolve } from "node:path";
import { parseArgs } from "node:util";

import { REDIS_COMMAND, REDIS_IMAGE, TestCluster } from "../e2e/cluster.ts";

import type { Baseline, BaselinePlace } from "./baseline.ts";
import { measureBaseline, type BaselineHosts } from "./baseline-series.ts";
import { BenchAddress } from "./bench-address.ts";
import { BenchHost } from "./bench-host.ts";
import { limitMegabytes, measureGodwit, MODES } from "./godwit-series.ts";
import { loadArgv } from "./place.ts";
import { PodmanBaseline } from "./podman-baseline.ts";
import { notesOf, renderTable } from "./report.ts";
import { RuncBaseline } from "./runc-baseline.ts";
import type { Series, SeriesPlan } from "./series.ts";

/** How long an interrupted measurement may take to notice that its cluster is gone. */
const UNWIND_TIMEOUT_MS = 15_000;
const HOSTS = 3;
const METHODS = ["godwit", "runc", "podman"];

const say = (text: string): void => void process.stdout.write(`${text}\n`);

function numbers(text: string, what: string, least: number): number[] {
  const found = text.split(",").map(Number);
  if (found.some((value) => !Number.isFinite(value) || value < least))
    throw new Error(`--${what} wants numbers from ${least} on, separated by commas, not '${text}'`);
  return found;
}

function readArguments() {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      sizes: { type: "string" },
      rates: { type: "string" },
      processes: { type: "string", default: "1" },
      rounds: { type: "string" },
      only: { type: "string", default: METHODS.join(",") },
      modes: { type: "string", default: MODES.join(",") },
      json: { type: "string", default: resolve(import.meta.dirname, "../../dist/bench-migration.json") },
    },
  });
  const methods = values.only.split(",");
  for (const method of methods)
    if (!METHODS.includes(method))
      throw new Error(`--only wants some of ${METHODS.join(",")}, not '${method}'`);
  const modes = values.modes.split(",").map((mode) => {
    const known = MODES.find((name) => name === mode);
    if (known === undefined) throw new Error(`--modes wants some of ${MODES.join(",")}, not '${mode}'`);
    return known;
  });
  const [rounds = 1] = numbers(values.rounds ?? (values.quick ? "3" : "10"), "rounds", 1);
  return {
    sizes: numbers(values.sizes ?? (values.quick ? "4,64" : "4,128,566"), "sizes", 1),
    rates: numbers(values.rates ?? (values.quick ? "0" : "0,10"), "rates", 0),
    processes: numbers(values.processes, "processes", 1).map(Math.round),
    rounds: Math.round(rounds),
    methods: new Set(methods),
    modes,
    json: values.json,
  };
}

/** A folder on a tmpfs, gone with its owner. Never through mounts: a dead runc may have left some below. */
class SharedFolder implements Disposable {
  readonly path = mkdtempSync("/dev/shm/godwit-bench-");

  [Symbol.dispose](): void {
    const { status, stderr } = spawnSync("rm", ["-rf", "--one-file-system", this.path], { encoding: "utf8" });
    if (status !== 0) process.stderr.write(`bench: ${this.path} stays: ${stderr.trim()}\n`);
  }
}

type Arguments = ReturnType<typeof readArguments>;

function plans({ sizes, rates, processes: counts, rounds }: Arguments): SeriesPlan[] {
  return sizes.flatMap((sizeMegabytes) =>
    rates.flatMap((writeMegabytesPerSecond) =>
      counts.map((processes) => ({
        ...{ sizeMegabytes, writeMegabytesPerSecond, processes, rounds },
        warmups: 1,
      })),
    ),
  );
}

/** Gives each series to `add` as soon as it stands, so that an interrupted run keeps what it has. */
async function measure(
  cluster: TestCluster,
  sharedDir: string,
  options: Arguments,
  add: (series: Series) => void,
  signal: AbortSignal,
): Promise<void> {
  const { dataDir } = cluster.dev;
  const enter = (name: string): BenchHost =>
    new BenchHost({
      name,
      underlayAddress: cluster.dev.node(name).underlayAddress,
      dataDir,
      toolsDir: `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/tools/bin`,
    });
  await using first = enter("n1");
  await using second = enter("n2");
  await using clientHost = enter("n3");
  const address = new BenchAddress(clientHost);
  const hosts: BaselineHosts = {
    ...{ first, second, address },
    clientArgv: loadArgv(dataDir, "n3", address.address),
  };
  const place: BaselinePlace = { sharedDir, imageTar: REDIS_IMAGE, command: REDIS_COMMAND, address };
  const usable: Baseline[] = [];
  for (const baseline of [new RuncBaseline(place), new PodmanBaseline(place)]) {
    if (!options.methods.has(baseline.name)) continue;
    const why = await readyOrWhy(baseline, [first, second]);
    if (why === undefined) usable.push(baseline);
    else say(`Left out: ${baseline.name}: ${why}`);
  }
  for (const plan of plans(options)) {
    const tasks = plan.processes === 1 ? "" : `, ${plan.processes} processes`;
    const what = `${plan.sizeMegabytes} MB, ${plan.writeMegabytesPerSecond} MB/s of writes${tasks}`;
    if (options.methods.has("godwit")) {
      signal.throwIfAborted();
      const series = await measureGodwit(cluster, plan, options.modes, (text) => say(`${what}: ${text}`));
      series.forEach(add);
    }
    for (const baseline of plan.processes === 1 ? [...usable] : []) {
      signal.throwIfAborted();
      say(`${what}: ${baseline.name} …`);
      const series = await measureBaseline(baseline, hosts, plan);
      add(series);
      // What it left behind would spoil the next series, and clearing up after it by force is not safe.
      if (series.note !== "") {
        usable.splice(usable.indexOf(baseline), 1);
        say(`Left out from here on: ${baseline.name}: ${series.note}`);
      }
    }
  }
}

async function readyOrWhy(
  baseline: Baseline,
  hosts: readonly [BenchHost, BenchHost],
): Promise<string | undefined> {
  try {
    const missing = await baseline.missing(hosts[0]);
    if (missing !== undefined) return missing;
    await baseline.prepare(hosts);
    say(`Baseline: ${await baseline.describe(hosts[0])}`);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

async function untilInterrupted(signal: AbortSignal): Promise<never> {
  return await new Promise((_, reject) => {
    const stop = (): void => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

async function bench(options: Arguments, add: (series: Series) => void, signal: AbortSignal): Promise<void> {
  let work: Promise<void> = Promise.resolve();
  const interrupted = untilInterrupted(signal);
  interrupted.catch(() => undefined); // told by the race below
  using shared = new SharedFolder();
  try {
    say("Starting a cluster of three hosts on this machine …");
    // Two hosts have the largest container for a while, the third has none: each may say that it has room for it.
    const largest = Math.max(...plans(options).map(limitMegabytes)) * 2 ** 20;
    await using cluster = await TestCluster.start(
      HOSTS,
      largest > totalmem() / HOSTS ? { memoryBytes: largest } : {},
    );
    work = measure(cluster, shared.path, options, add, signal);
    await Promise.race([work, interrupted]);
  } finally {
    // The cluster is down, and with it all that the measurement has started: it ends now, if it has not yet.
    let patience: NodeJS.Timeout | undefined;
    const enough = new Promise((resolve) => (patience = setTimeout(resolve, UNWIND_TIMEOUT_MS)));
    await Promise.race([work.catch(() => undefined), enough]);
    clearTimeout(patience);
  }
}

function argumentsOrExit(): Arguments {
  try {
    return readArguments();
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(2);
  }
}

const options = argumentsOrExit();
const all: Series[] = [];
const startedAt = new Date();
const controller = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.on(name, () => controller.abort(new Error(`interrupted by ${name}`)));
try {
  await bench(
    options,
    (series) => {
      // What failed because all was taken down has failed for no reason of its own.
      if (!controller.signal.aborted) all.push(series);
      else if (series.samples.length > 0) all.push({ ...series, note: "interrupted" });
    },
    controller.signal,
  );
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
if (all.length > 0) {
  const [cpu] = cpus();
  const machine = { kernel: release(), cpus: cpus().length, cpuModel: cpu?.model, memoryBytes: totalmem() };
  const { sizes, rates, processes, rounds } = options;
  const document = { startedAt, machine, sizes, rates, processes, rounds, series: all };
  say(renderTable(all));
  say(
    "Stall: the client's longest request, median and 95th percentile. Blackout, total, sent: as the mover tells it.",
  );
  for (const note of notesOf(all)) say(`Note: ${note}`);
  mkdirSync(dirname(resolve(options.json)), { recursive: true });
  writeFileSync(options.json, `${JSON.stringify(document, undefined, 2)}\n`);
  say(`Figures of each move: ${resolve(options.json)}`);
}
const isGodwitMissing = all.some(
  ({ method, samples }) => method.startsWith("godwit") && samples.length === 0,
);
if (isGodwitMissing) process.exitCode = 1;
process.exit();
