/**
 * npm run bench:scheduler [-- --nodes 100,1000,5000] [--containers PER_NODE] [--report-every MS] [--json FILE]
 *
 * What one scheduler does: the real one and a real nats-server that syncs every append (`sync_interval: always`), with
 * simulated nodes in a process of their own, all on this machine. For each number of nodes:
 *
 *   placements/s   containers created, placed and in the log on disk, per second, from none to all of them
 *   µs CPU each    CPU time of the scheduler's process for each of them, which a busy machine changes less
 *   run ms         of single creations beside that load, from asked for to placed: median and 99th percentile. As many
 *                  as can be are under way at a time then, so each waits for those before it
 *   at a rate ms   the same of PACED creations a second, asked for whether those before have been answered or not
 *   disk ms        of the disk under the log, before there is any load: one entry written and synced, without Godwit.
 *                  Median, 99th percentile and longest; no creation is faster than that
 *   KB/container   of the scheduler's memory after a collection, less what it took without containers
 *   load s         a second scheduler, a process of its own, from its start to having everything in memory: from the log
 *                  alone, and (a third one) from a snapshot
 *   take over ms   from the first one's going to the second one's leading
 *   stall ms       the longest that an append took, and that the event loop stood still, while the second one made a
 *                  snapshot; in parentheses: in a time without
 *   fail-over ms   from its being killed to the third one's leading
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

import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import { startScheduler, type Scheduler } from "../../../scheduler/mod.ts";
import { eventually } from "../../../scheduler/testing/eventually.ts";
import { NatsServer } from "../../../scheduler/testing/nats-server.ts";
import { sampleImage, sampleSpec, silent } from "../../../scheduler/testing/sample.ts";
import { quantile } from "../statistics.ts";
import { measureDisk } from "./disk.ts";
import { renderTable, type Figures, type Others } from "./figures.ts";
import { SecondScheduler } from "./second-scheduler.ts";

const NODES_MAIN = fileURLToPath(new URL("simulated-nodes.ts", import.meta.url));
const LEASE_MS = 60_000;
/** Creations that are under way at a time: clients that wait for their answer. */
const CONCURRENT = 256;
const PROBE_EVERY_MS = 20;
const PACED_PER_SECOND = 1_000;
const PACED_MS = 5_000;
const DRAINED = 200;
const DISK_MS = 10_000;
const POLL_MS = 200;
const JOIN_DEADLINE_MS = 600_000;
const NEVER = Number.MAX_SAFE_INTEGER;

const say = (text: string): void => void process.stdout.write(`${text}\n`);

function collect(): number {
  if (globalThis.gc === undefined)
    throw new Error("run it with --expose-gc, as npm run bench:scheduler does");
  globalThis.gc();
  globalThis.gc();
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

type Load = Pick<
  Figures,
  "busyShare" | "cpuUsEach" | "entries" | "placementsPerSecond" | "runMedianMs" | "run99Ms" | "loadStallMs"
>;

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
    const disk = await measureDisk(this.#server.folder, DISK_MS);
    this.#scheduler = await this.#startScheduler("s1", NEVER);
    await this.#leader.addImage(sampleImage());
    await this.#nodes(nodes, reportEveryMs);
    const before = collect();
    const load = await this.#fill(containers);
    say(`  ${containers} containers placed: ${describe(load)}`);
    const bytesPerContainer = (collect() - before) / containers;
    const drainPlanMs = this.#drainPlan(perNode);
    const reportsCpuShare = await this.#idle(10_000);
    const balancingRoundMs = this.#balancingRound();
    const paced = await this.#paced();
    const others = await this.#others();
    return {
      nodes,
      containers,
      bytesPerContainer,
      drainPlanMs,
      balancingRoundMs,
      reportsCpuShare,
      ...disk,
      ...load,
      ...paced,
      ...others,
    };
  }

  async #fill(containers: number): Promise<Load> {
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
        probes.push(await this.#run(`probe${at}`));
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

  /** How long it takes until the container has a node. */
  async #run(name: string): Promise<number> {
    const askedAt = performance.now();
    const { id } = await this.#leader.createContainer(spec(name));
    if (this.#leader.state().containers[id]?.allocation === undefined)
      for await (const _ of this.#leader.changes(AbortSignal.timeout(60_000)))
        if (this.#leader.state().containers[id]?.allocation !== undefined) break;
    return performance.now() - askedAt;
  }

  async #paced(): Promise<Pick<Figures, "pacedMedianMs" | "paced99Ms">> {
    const began = performance.now();
    const runs: Promise<number>[] = [];
    while (performance.now() - began < PACED_MS) {
      const due = ((performance.now() - began) * PACED_PER_SECOND) / 1000;
      while (runs.length < due) runs.push(this.#run(`paced${runs.length}`));
      await delay(1);
    }
    const took = await Promise.all(runs);
    return { pacedMedianMs: quantile(took, 0.5), paced99Ms: quantile(took, 0.99) };
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

  /** A second scheduler, which makes a snapshot once it has led for a while, and a third one. */
  async #others(): Promise<Others> {
    const { logSequence } = this.#leader.status();
    const second = this.#stack.use(new SecondScheduler(this.#server.url, "s2", logSequence));
    const { loadMs } = await second.said("loaded");
    say(`  a second scheduler has all of it after ${(loadMs / 1000).toFixed(1)} s`);
    const leftAt = performance.now();
    await this.#leader[Symbol.asyncDispose]();
    await second.said("leading");
    const takeOverMs = performance.now() - leftAt;
    const stalls = await second.said("measured");
    const beganAt = performance.now();
    const third = await this.#startScheduler("s3", NEVER);
    const snapshotLoadMs = performance.now() - beganAt;
    const killedAt = performance.now();
    second.kill();
    while (!third.leads) await delay(1);
    const failOverMs = performance.now() - killedAt;
    this.#scheduler = third;
    return { loadMs, takeOverMs, ...stalls, snapshotLoadMs, failOverMs };
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

const describe = ({ cpuUsEach, placementsPerSecond, run99Ms, runMedianMs }: Load): string =>
  `${placementsPerSecond.toFixed(0)}/s, ${cpuUsEach.toFixed(0)} µs of CPU each, ` +
  `a run in ${runMedianMs.toFixed(0)} ms (99 %: ${run99Ms.toFixed(0)})`;

function countUnplaced(scheduler: Scheduler): number {
  let count = 0;
  const { containers } = scheduler.state();
  for (const id in containers) if (containers[id]?.allocation === undefined) count += 1;
  return count;
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
