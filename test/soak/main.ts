/**
 * npm run soak [-- --moves N --seed N]: N moves (500) of mixed containers among three hosts, with random troubles. The
 * seed decides which container goes where and what goes wrong when; how far a move has come by then, the machine
 * decides. After each move all invariants are checked. Ends with 1 at the first violation, and says how to come there
 * again.
 */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";

import { TestCluster, until } from "../e2e/cluster.ts";
import { PYTHON_IMAGE } from "../e2e/workload-program.ts";
import { leftovers } from "../faults/host-view.ts";
import { keepLogs } from "../faults/kept-logs.ts";
import { FIXTURES, LEASE_MS } from "../faults/laboratory.ts";
import { Random } from "./random.ts";
import { pythonTenant, redisTenant, type Tenant, treeTenant } from "./tenants.ts";
import { type Trouble, trouble, TROUBLES } from "./troubles.ts";

const HOSTS = ["n1", "n2", "n3"] as const;
/** Of the clients alone: nothing goes wrong here. */
const CLIENT_HOST = "n4";
const LATEST_MS = 1_500;
const LONGEST_MS = LEASE_MS * 1.5;
/** A machine that does much else may take minutes for the first round of a container of many processes. */
const SETTLE_MS = 300_000;
const MOST_AGENT_MEGABYTES = 300;
/** On a machine that does much else an agent may be silent for a lease though nothing was done to it: not often. */
const MISSED = /^node \w+ was lost \(no report/;
const MOST_MISSED = 0.02;

const { values } = parseArgs({ options: { moves: { type: "string" }, seed: { type: "string" } } });
const moves = Number(values.moves ?? 500);
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
const random = new Random(seed);
const say = (text: string): void => void process.stdout.write(`${text}\n`);

interface Plan {
  readonly tenant: Tenant;
  readonly trouble: Trouble;
  readonly target: number;
  readonly afterMs: number;
  readonly lastsMs: number;
}

/** Always the same number of draws, whatever has happened before. */
const draw = (tenants: readonly Tenant[]): Plan => ({
  tenant: random.pick(tenants),
  trouble: random.pick(TROUBLES),
  target: random.below(HOSTS.length - 1),
  afterMs: random.below(LATEST_MS),
  lastsMs: 200 + random.below(LONGEST_MS),
});

/** Carries one move out and answers how it ended; throws what was violated. */
async function move(cluster: TestCluster, plan: Plan): Promise<string> {
  const { tenant } = plan;
  await until(
    "all hosts to be ready",
    async () => (await cluster.nodes()).every(({ state }) => state === "ready"),
    SETTLE_MS,
  );
  for (const name of HOSTS) await agentIsBack(cluster, name);
  const { node: source } = await cluster.info(tenant.name);
  const others = HOSTS.filter((name) => name !== source);
  const target = others[plan.target] ?? "n1";
  const other = others[1 - plan.target] ?? "n1";
  const { id } = await cluster.startMove(tenant.name, target);
  await delay(plan.afterMs);
  const { lastsMs } = plan;
  await trouble(plan.trouble, {
    cluster,
    source,
    target,
    other,
    containerId: tenant.id,
    migration: id,
    lastsMs,
  });
  const ended = await until(
    `migration ${id} to end`,
    async () => {
      const info = await cluster.migration(id);
      return info?.state === "finished" || info?.state === "aborted" ? info : undefined;
    },
    SETTLE_MS,
  );
  const home = ended.state === "finished" ? target : source;
  if (plan.trouble === "none" && home !== target) {
    if (!MISSED.test(ended.error)) throw new Error(`it was called off: ${ended.error}`);
    missed += 1;
  }
  await checkWhole(cluster, tenant, home);
  return `${source} → ${target} ${ended.state}${ended.error === "" ? "" : ` (${ended.error})`}`;
}

/** By name of the host, of the agent that was known to report. */
const agents = new Map<string, number>();

/** One that was killed a moment ago starts again, and would call the next move off: its host is said to be ready meanwhile. */
async function agentIsBack(cluster: TestCluster, host: string): Promise<void> {
  const pid = await cluster.dev.node(host).agentPid();
  if (agents.get(host) === pid) return;
  let lastMs = Infinity;
  await until(
    `a report of the new agent of ${host}`,
    async () => {
      const leaseMs = (await cluster.nodes()).find(({ name }) => name === host)?.leaseMs ?? 0;
      const hasReported = leaseMs > lastMs;
      lastMs = leaseMs;
      return hasReported;
    },
    SETTLE_MS,
  );
  agents.set(host, pid);
}

async function checkWhole(cluster: TestCluster, tenant: Tenant, home: string): Promise<void> {
  await until(
    `one running copy of ${tenant.name}, on ${home}`,
    () => cluster.runningOn(tenant.id).join() === home,
  );
  await until("ps to say so", async () => {
    const row = await cluster.info(tenant.name);
    if (row.restarts !== 0) throw new Error(`it was started again ${row.restarts} times`);
    return row.state === "running" && row.node === home;
  });
  await tenant.check(home);
  await until(
    "nothing to be left of the move",
    () => {
      const left = HOSTS.flatMap((name) => leftovers(cluster, name, tenant.id, name === home));
      if (left.length > 0) throw new Error(left.join("; "));
      return true;
    },
    60_000,
  );
}

/** What the agents hold, in megabytes: they must not grow, whatever they have been through. */
async function agentMegabytes(cluster: TestCluster): Promise<number> {
  const pids = await Promise.all(HOSTS.map((name) => cluster.dev.node(name).agentPid()));
  return Math.max(
    ...pids.map((pid) => {
      const kilobytes = /^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
      // One that has just been killed is still there, without memory: its successor is to be looked at.
      if (kilobytes === undefined) throw new Error(`agent ${pid} is about to end`);
      return Math.round(Number(kilobytes) / 1024);
    }),
  );
}

let stopping = false;
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => (stopping = true));
say(`seed ${seed}: ${moves} moves`);
const counts = new Map<string, number>();
let done = 0;
let largest = 0;
let missed = 0;
let doing = "";
await using stack = new AsyncDisposableStack();
const cluster = stack.use(await TestCluster.start(HOSTS.length + 1, { leaseMs: LEASE_MS, ...FIXTURES }));
try {
  await cluster.must("image", "import", "python", PYTHON_IMAGE);
  await cluster.must("node", "cordon", CLIENT_HOST);
  const tenants: Tenant[] = [];
  for (const starting of [
    redisTenant(cluster, "n1", CLIENT_HOST),
    treeTenant(cluster, "n2"),
    pythonTenant(cluster, "n3", "channels"),
    pythonTenant(cluster, "n1", "processes"),
    pythonTenant(cluster, "n2", "memory"),
  ])
    tenants.push(stack.use(await starting));
  for (; done < moves && !stopping; done += 1) {
    const plan = draw(tenants);
    doing = `${plan.tenant.name}, ${plan.trouble} after ${plan.afterMs} ms`;
    const startedAt = performance.now();
    const outcome = await move(cluster, plan);
    const megabytes = await until("the agents' memory", () => agentMegabytes(cluster));
    largest = Math.max(largest, megabytes);
    if (megabytes > MOST_AGENT_MEGABYTES) throw new Error(`an agent holds ${megabytes} MB`);
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    say(
      `${done + 1}/${moves} ${plan.tenant.name} ${outcome}; ${plan.trouble} after ${plan.afterMs} ms; ${seconds} s, ${megabytes} MB`,
    );
    const key = `${plan.trouble}: ${outcome.includes("finished") ? "moved" : "stayed"}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  for (const tenant of tenants) await tenant.finish((await cluster.container(tenant.name)).node);
} catch (error) {
  say(`move ${done + 1} (${doing}): VIOLATION: ${error instanceof Error ? error.message : String(error)}`);
  say(`logs: ${keepLogs(cluster, `soak-${seed}-${done + 1}`)}`);
  say(`again: npm run soak -- --seed ${seed} --moves ${done + 1}`);
  process.exitCode = 1;
}
say(`seed ${seed}: ${done} moves; the largest agent had ${largest} MB`);
for (const [what, count] of [...counts].toSorted(([a], [b]) => (a < b ? -1 : 1))) say(`  ${count} × ${what}`);
if (missed > Math.max(3, done * MOST_MISSED)) {
  say(
    `${missed} undisturbed moves were called off because a host was silent: the machine is too slow for this`,
  );
  process.exitCode = 1;
}
if (stopping) process.exitCode = 1;
