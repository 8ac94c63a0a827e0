/**
 * npm run bench:scheduler [-- --nodes 100,1000,5000] [--containers PER_NODE] [--report-every MS] [--json FILE]
 *
 * What one scheduler does: the real one and a real nats-server that syncs every append (`sync_interval: always`), with
 * simulated nodes in a process of their own, all on this machine. For each number of nodes:
 *
 *   placements/s   containers created, placed and in the log on disk, per second, from none to all of them
 *   µs CPU each    CPU time of the scheduler's process for each of them, which a busy machine does not change much
 *   run ms         of single creations beside that load, from asked for to placed: median and 99th percentile
 *   KB/container   of the scheduler's memory after a collection, less what it took without containers
 *   stall ms       the longest that its event loop stood still while a snapshot was made, and in as long a time without
 *   load s         a second scheduler from its start to having everything in memory
 *   take over ms   from the first one's going to the second one's leading
 *   drain plan ms  the plan of a drain of 200 containers
 *   round ms       what the balancer would move, weighed over all nodes once
 *   reports %      CPU time of the scheduler per second while nothing happens but reports
 *
 * It asserts nothing about time.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { dirname, resolve } from "node:path";
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import Table from "cli-table3";

import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import { startScheduler, type Scheduler } from "../../../scheduler/mod.ts";
import { eventually } from "../../../scheduler/testing/eventually.ts";
import { NatsServer } from "../../../scheduler/testing/nats-server.ts";
import { sampleImage, sampleSpec, silent } from "../../../scheduler/testing/sample.ts";
import { quantile } from "../statistics.ts";

const NODES_MAIN = fileURLToPath(new URL("simulated-nodes.ts", import.meta.url));
const LEASE_MS = 60_000;
/** Creations that are under way at a time: clients that wait for their answer. */
const CONCURRENT = 256;
const PROBE_EVERY_MS = 20;
const DRAINED = 200;
const POLL_MS = 200;
const SETTLE_MS = 5_000;
const JOIN_DEADLINE_MS = 600_000;
const NEVER = Number.MAX_SAFE_INTEGER;

interface Figures {
  readonly nodes: number;
  readonly containers: number;
  readonly placementsPerSecond: number;
  /** CPU time of the process for each placement, in microseconds. */
  readonly cpuUsEach: number;
  /** Of the scheduler's event loop, meanwhile. */
  readonly busyShare: number;
  /** Of the log, that all of it took. */
  readonly entries: number;
  readonly runMedianMs: number;
  readonly run99Ms: number;
  readonly bytesPerContainer: number;
  readonly loadStallMs: number;
  readonly snapshotStallMs: number;
  /** As long a time without a snapshot: what the machine and the reports do by themselves. */
  readonly idleStallMs: number;
  readonly snapshotMs: number;
  readonly loadMs: number;
  readonly takeOverMs: number;
  readonly drainPlanMs: number;
  readonly balancingRoundMs: number;
  readonly reportsCpuShare: number;
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);

function collect(): number {
  if (globalThis.gc === undefined)
    throw new Error("run it with --expose-gc, as npm run bench:scheduler does");
  globalThis.gc();
  globalThis.gc();
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

class Bench implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #server: NatsServer;
  #scheduler: Scheduler | undefined;

  private constructor(server: NatsServer) {
    this.#server = this.#stack.use(server);
  }

  static async start(): Promise<Bench> {
    return new Bench(await NatsServer.start());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }

  async #startScheduler(id: string, snapshotEvery: number): Promise<Scheduler> {
    const connection = await this.#server.connect();
    this.#stack.defer(() => connection.close());
    return this.#stack.use(
      await startScheduler({
        connection,
        settings: this.#server.settings,
        id,
        logger: silent,
        leaseMs: LEASE_MS,
        snapshotEvery,
      }),
    );
  }

  async #nodes(count: number, everyMs: number): Promise<void> {
    const child: ChildProcess = spawn(
      process.execPath,
      ["--max-old-space-size=8192", NODES_MAIN, this.#server.url, String(count), String(everyMs)],
      { stdio: ["pipe", "ignore", "inherit"] },
    );
    this.#stack.defer(async () => {
      const ended = once(child, "exit");
      child.stdin?.end();
      await ended;
    });
    const { nodes } = this.#leader.state();
    await eventually(
      `${count} nodes to be ready`,
      () => Object.values(nodes).filter(({ state }) => state === NodeState.READY).length === count,
      JOIN_DEADLINE_MS,
    );
  }

  get #leader(): Scheduler {
    if (this.#scheduler === undefined) throw new Error("there is no scheduler yet");
    return this.#scheduler;
  }

  async measure(nodes: number, perNode: number, reportEveryMs: number): Promise<Figures> {
    const containers = nodes * perNode;
    this.#scheduler = await this.#startScheduler("s1", NEVER);
    await this.#leader.addImage(sampleImage());
    await this.#nodes(nodes, reportEveryMs);
    const before = collect();
    const load = await this.#fill(containers);
    say(`  ${containers} containers placed: ${load.placementsPerSecond.toFixed(0)}/s`);
    const bytesPerContainer = (collect() - before) / containers;
    const drainPlanMs = this.#drainPlan(perNode);
    const reportsCpuShare = await this.#idle(10_000);
    const balancingRoundMs = this.#balancingRound();
    const second = await this.#takeOver();
    return {
      nodes,
      containers,
      bytesPerContainer,
      drainPlanMs,
      balancingRoundMs,
      reportsCpuShare,
      ...load,
      ...second,
    };
  }

  async #fill(
    containers: number,
  ): Promise<
    Pick<
      Figures,
      | "busyShare"
      | "cpuUsEach"
      | "entries"
      | "placementsPerSecond"
      | "runMedianMs"
      | "run99Ms"
      | "loadStallMs"
    >
  > {
    const stall = monitorEventLoopDelay({ resolution: 1 });
    stall.enable();
    const began = performance.now();
    const idle = performance.eventLoopUtilization();
    const cpu = process.cpuUsage();
    const sequence = this.#leader.status().logSequence;
    let created = 0;
    const client = async (): Promise<void> => {
      while (created < containers) {
        created += 1;
        await this.#leader.createContainer(spec(`c${created}`));
      }
    };
    const probes: number[] = [];
    let filling = true;
    const probing = (async (): Promise<void> => {
      for (let at = 0; filling; at += 1) {
        const askedAt = performance.now();
        const { id } = await this.#leader.createContainer(spec(`probe${at}`));
        for await (const _ of this.#leader.changes(AbortSignal.timeout(60_000)))
          if (this.#leader.state().containers[id]?.allocation !== undefined) break;
        probes.push(performance.now() - askedAt);
        await delay(PROBE_EVERY_MS);
      }
    })();
    await Promise.all(Array.from({ length: CONCURRENT }, client));
    while (countUnplaced(this.#leader) > 0) await delay(POLL_MS);
    const seconds = (performance.now() - began) / 1000;
    filling = false;
    await probing;
    stall.disable();
    return {
      entries: this.#leader.status().logSequence - sequence,
      cpuUsEach: usedUs(cpu) / containers,
      busyShare: performance.eventLoopUtilization(idle).utilization,
      placementsPerSecond: containers / seconds,
      runMedianMs: quantile(probes, 0.5),
      run99Ms: quantile(probes, 0.99),
      loadStallMs: stall.max / 1e6,
    };
  }

  #drainPlan(perNode: number): number {
    if (perNode < DRAINED) return Number.NaN;
    const began = performance.now();
    this.#leader.planDrain("n1");
    return performance.now() - began;
  }

  #balancingRound(): number {
    const began = performance.now();
    this.#leader.balancing.plan();
    return performance.now() - began;
  }

  /** CPU time per time. */
  async #idle(forMs: number): Promise<number> {
    const began = process.cpuUsage();
    await delay(forMs);
    return usedUs(began) / 1000 / forMs;
  }

  /** A second scheduler, which makes a snapshot as soon as it leads. */
  async #takeOver(): Promise<
    Pick<Figures, "idleStallMs" | "loadMs" | "snapshotMs" | "snapshotStallMs" | "takeOverMs">
  > {
    const beganAt = performance.now();
    const second = await this.#startScheduler("s2", 1);
    while (second.status().logSequence < this.#leader.status().logSequence) await delay(10);
    const loadMs = performance.now() - beganAt;
    const leftAt = performance.now();
    await this.#leader[Symbol.asyncDispose]();
    this.#scheduler = second;
    while (!second.status().leading) await delay(1);
    const takeOverMs = performance.now() - leftAt;
    while (second.status().snapshotSequence === 0) await delay(10);
    // What a new leader has to do at first is over by then. The same time without a snapshot, for comparison.
    await delay(SETTLE_MS);
    const stall = monitorEventLoopDelay({ resolution: 1 });
    const { snapshotSequence } = second.status();
    const began = performance.now();
    stall.enable();
    await second.addImage(sampleImage("another", "b"));
    while (second.status().snapshotSequence === snapshotSequence) await delay(10);
    const snapshotMs = performance.now() - began;
    const snapshotStallMs = stall.max / 1e6;
    stall.reset();
    await delay(snapshotMs);
    stall.disable();
    const idleStallMs = stall.max / 1e6;
    return { loadMs, takeOverMs, snapshotMs, snapshotStallMs, idleStallMs };
  }
}

const usedUs = (since: NodeJS.CpuUsage): number => {
  const { system, user } = process.cpuUsage(since);
  return system + user;
};

const spec = (name: string): ReturnType<typeof sampleSpec> =>
  sampleSpec(name, {
    limits: { memoryBytes: 64 * 1024 ** 2, cpuMillis: 100, pids: 100, diskBytes: 0 },
    labels: { app: "bench" },
    command: ["redis-server", "--save", ""],
  });

function countUnplaced(scheduler: Scheduler): number {
  let count = 0;
  const { containers } = scheduler.state();
  for (const id in containers) if (containers[id]?.allocation === undefined) count += 1;
  return count;
}

const digits = (value: number, places = 0): string => (Number.isNaN(value) ? "-" : value.toFixed(places));

function renderTable(figures: readonly Figures[]): string {
  const table = new Table({
    head: [
      "nodes",
      "containers",
      "placements/s",
      "µs CPU each",
      "run ms (99 %)",
      "bytes/container",
      "drain plan ms",
      "round ms",
      "reports, cores",
      "load s",
      "take over ms",
      "snapshot s",
      "its stall ms (without)",
    ],
    style: { head: [], border: [] },
    colAligns: Array.from({ length: 13 }, () => "right" as const),
  });
  for (const one of figures)
    table.push([
      one.nodes,
      one.containers,
      digits(one.placementsPerSecond),
      digits(one.cpuUsEach),
      `${digits(one.runMedianMs, 1)} (${digits(one.run99Ms, 1)})`,
      digits(one.bytesPerContainer),
      digits(one.drainPlanMs, 1),
      digits(one.balancingRoundMs, 1),
      digits(one.reportsCpuShare, 2),
      digits(one.loadMs / 1000, 1),
      digits(one.takeOverMs),
      digits(one.snapshotMs / 1000, 1),
      `${digits(one.snapshotStallMs)} (${digits(one.idleStallMs)})`,
    ]);
  return table.toString();
}

const { values } = parseArgs({
  options: {
    nodes: { type: "string", default: "100,1000,5000" },
    containers: { type: "string", default: "200" },
    "report-every": { type: "string", default: "1000" },
    json: { type: "string", default: resolve(import.meta.dirname, "../../../dist/bench-scheduler.json") },
  },
});
say(
  `${cpus().length} cores (${cpus()[0]?.model ?? "?"}), ${(totalmem() / 2 ** 30).toFixed(0)} GiB of memory`,
);
const figures: Figures[] = [];
for (const nodes of values.nodes.split(",").map(Number)) {
  say(`${nodes} nodes …`);
  await using bench = await Bench.start();
  const one = await bench.measure(nodes, Number(values.containers), Number(values["report-every"]));
  figures.push(one);
  // The larger ones take long, and may not come to an end.
  say(`  ${JSON.stringify(one)}`);
}
say(renderTable(figures));
mkdirSync(dirname(values.json), { recursive: true });
writeFileSync(values.json, `${JSON.stringify({ figures }, undefined, 2)}\n`);
say(`JSON: ${values.json}`);
