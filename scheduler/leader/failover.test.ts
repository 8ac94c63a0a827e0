/** Lost nodes, with a real log and simulated agents that stand still when their lease ends. */
import { pino } from "pino";
import { expect, test } from "vitest";
import { reportSubject } from "../../proto/contract/subjects.ts";
import { MigrationPhase, Report } from "../../proto/gen/godwit/v1/agent.ts";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { AllocationState, MigrationState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { FailoverPolicy, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import type { Scheduler } from "../mod.ts";
import { ended, move, ready, running, runOn, stateOf, TestCluster } from "../testing/cluster.ts";
import { Drive } from "../testing/drive.ts";
import { eventually } from "../testing/eventually.ts";
import { sampleNode } from "../testing/sample.ts";
import { Reports } from "./reports.ts";
import type { SimulatedAgent } from "../testing/simulated-agent.ts";

const LEASE = { leaseMs: 500 };
const DAY_MS = 86_400_000;

const armed = (s: Scheduler, ...names: string[]): Promise<void> =>
  eventually("the fences to be armed", () =>
    names.every((name) => s.state().nodes[name]?.fenceMs === LEASE.leaseMs),
  );
const nodeOf = (s: Scheduler, id: string): string | undefined => s.state().containers[id]?.allocation?.node;
const fenced = (s: Scheduler, name: string): Promise<void> =>
  eventually(`${name} to be fenced`, () => s.state().nodes[name]?.fenced === true);

const up = async (
  cluster: TestCluster,
  nodes: number,
): Promise<{ s: Scheduler; agents: SimulatedAgent[] }> => {
  const { s, agents } = await cluster.up(nodes, LEASE);
  for (const agent of agents) agent.hasFence = true;
  await armed(s, ...agents.map((agent) => agent.info.name));
  return { s, agents };
};

test("containers of a lost node are started elsewhere once they stand still there, and its copies are removed when it is back", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await up(cluster, 2);
  const [n1, n2] = agents as [SimulatedAgent, SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  const once = await runOn(s, "once", "n1", { restart: RestartPolicy.NEVER });
  const waits = await runOn(s, "waits", "n1", { failover: FailoverPolicy.NEVER });
  n1.mute(true);
  // At the moment at which a second copy comes into being, the first one stands still.
  let overlap = "";
  n2.onRun = (id) => {
    if (!n1.isClosed) overlap = `${id} runs twice`;
  };
  await eventually("web to run on n2", () => nodeOf(s, web) === "n2" && n2.held.has(web));
  expect(overlap).toBe("");
  await running(s, web);
  expect(s.state().containers[web]?.allocation?.epoch).toBe(2);
  expect([nodeOf(s, once), nodeOf(s, waits)]).toEqual(["n1", "n1"]);
  expect(s.status().warnings.join()).toMatch(/n1 is lost.*stand still there/);
  n1.mute(false);
  await ready(s, "n1");
  await eventually("the old copy to be gone", () => !n1.held.has(web));
  expect([...n1.held.keys()].toSorted()).toEqual([once, waits].toSorted());
  expect(n1.isClosed).toBe(false);
});

test("a node that is back in time goes on with what it has, and one without a fence keeps it", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await up(cluster, 2);
  const [n1, n2] = agents as [SimulatedAgent, SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  n1.mute(true);
  await eventually("n1 to be lost", () => s.state().nodes["n1"]?.state === NodeState.LOST);
  expect(n1.isClosed).toBe(true);
  n1.mute(false);
  await ready(s, "n1");
  expect(s.state().containers[web]?.allocation).toMatchObject({ node: "n1", epoch: 1 });
  expect(n2.held.size).toBe(0);

  n1.hasFence = false;
  await eventually("the log to know", () => s.state().nodes["n1"]?.fenceMs === 0);
  n1.mute(true);
  await eventually("n1 to be lost", () => s.state().nodes["n1"]?.state === NodeState.LOST);
  expect(s.status().warnings.join()).toMatch(/nothing is known to stop its containers.*node rm --is-off n1/);
  const until = performance.now() + 2_500;
  await eventually("any failover to be due", () => performance.now() > until);
  expect(nodeOf(s, web)).toBe("n1");
});

test("with failover off nobody stands still and nothing is started elsewhere; on again, fences first have to say so", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await up(cluster, 2);
  const [n1] = agents as [SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  await s.setFailover(false);
  expect(s.state().nodes["n1"]?.fenceMs).toBe(0);
  await eventually("n1 to know", () => n1.replies.at(-1)?.fencing === false);
  n1.mute(true);
  await eventually("n1 to be lost", () => s.state().nodes["n1"]?.state === NodeState.LOST);
  expect(n1.isClosed).toBe(false);
  // What it was is not what it is: n1 has not heard of it.
  await s.setFailover(true);
  const until = performance.now() + 2_500;
  await eventually("any failover to be due", () => performance.now() > until);
  expect(nodeOf(s, web)).toBe("n1");
  n1.mute(false);
  await armed(s, "n1", "n2");
});

test("a target that is lost after the switch, and stands still, gives the container back to its source", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await up(cluster, 2);
  const [n1, n2] = agents as [SimulatedAgent, SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  n2.script = { allows: (phase) => phase !== MigrationPhase.RUNNING };
  const { id } = await move(s, web, "n2");
  await eventually("the switch", () => s.state().migrations[id]?.state === MigrationState.SWITCHED);
  n2.mute(true);
  await fenced(s, "n2");
  expect(await ended(s, id)).toMatchObject({ state: MigrationState.ABORTED });
  expect(s.state().containers[web]?.allocation).toMatchObject({ node: "n1", epoch: 3, inheritsEpoch: 1 });
  await eventually("n1 to run it", () => n1.held.get(web)?.state === AllocationState.RUNNING);
});

test("a container goes on from its newest checkpoint, on a node that keeps it, and by hand as well", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await up(cluster, 3);
  const [n1] = agents as [SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  const first = await s.createCheckpoint(web);
  const isStored = (id: string) => (): boolean => s.state().checkpoints[id]?.state === CheckpointState.STORED;
  await eventually("the first to be stored", isStored(first));
  expect(s.state().checkpoints[first]).toMatchObject({ keepers: ["n2", "n3"], sizeBytes: 3, blackoutMs: 1 });
  const second = await s.createCheckpoint(web);
  await eventually("the second to be stored", isStored(second));
  n1.mute(true);
  await eventually("it to run elsewhere", () => agents.some((agent) => agent.restored.has(web)));
  const home = nodeOf(s, web);
  const agent = agents.find(({ info }) => info.name === home);
  expect(["n2", "n3"]).toContain(home);
  expect(agent?.restored.get(web)).toBe(second);
  await running(s, web);

  const other = home === "n2" ? "n3" : "n2";
  await expect(s.restoreCheckpoint(first)).rejects.toMatchObject({ code: "refused" });
  await s.setDesired(web, "stop");
  await eventually("it to be stopped", () => stateOf(s, web) === AllocationState.EXITED);
  expect(await s.restoreCheckpoint(first, other)).toBe(other);
  await eventually("it to go on there", () => agents.some((one) => one.restored.get(web) === first));
  await running(s, web);
  expect(nodeOf(s, web)).toBe(other);
  await s.removeCheckpoint(first);
});

test("a stopped container of a lost node stays, until somebody starts it", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await up(cluster, 2);
  const [n1] = agents as [SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  await s.setDesired(web, "stop");
  await eventually("it to be stopped", () => stateOf(s, web) === AllocationState.EXITED);
  n1.mute(true);
  await fenced(s, "n1");
  expect(nodeOf(s, web)).toBe("n1");
  await s.setDesired(web, "start");
  await eventually("it to run on n2", () => nodeOf(s, web) === "n2");
});

test("what an earlier leader may have granted has ended before anything is started elsewhere", () => {
  const { cluster } = new Drive("n1");
  const reports = new Reports(15_000, 100_000);
  // For so long a leader grants leases that does not know yet that it was overtaken.
  reports.grace(104_000);
  expect(reports.fencedFromMs("n1", 15_000)).toBe(104_000 + 15_000 + 5_000);
  const report = Report.fromPartial({ info: sampleNode("n1"), incarnation: "i" });
  reports.accept(cluster, "n1", report, true, 160_000);
  expect(reports.fencedFromMs("n1", 15_000)).toBe(160_000 + 15_000 + 5_000);
  // Granted by one with longer leases.
  expect(reports.fencedFromMs("n1", 20_000)).toBe(160_000 + 20_000 + 5_000);
});

test("a clock that is set by a day, there and back, makes no node lost and no time run backwards", async () => {
  await using cluster = await TestCluster.start();
  let offMs = 0;
  const { s, agents } = await cluster.up(2, { ...LEASE, nowMs: () => Date.now() + offMs });
  for (const agent of agents) agent.hasFence = true;
  await armed(s, "n1", "n2");
  const web = await runOn(s, "web", "n1");
  for (const off of [DAY_MS, -DAY_MS, 0]) {
    offMs = off;
    const before = agents.map(({ replies }) => replies.length);
    await eventually("reports under that clock", () =>
      agents.every(({ replies }, at) => replies.length > (before[at] ?? 0) + 5),
    );
    expect(Object.values(s.state().nodes).map(({ state }) => state)).toEqual([
      NodeState.READY,
      NodeState.READY,
    ]);
    const { id } = await move(s, web, nodeOf(s, web) === "n1" ? "n2" : "n1");
    expect(await ended(s, id)).toMatchObject({ state: MigrationState.FINISHED });
  }
  const times = Object.values(s.state().migrations).map(({ startedAtMs }) => startedAtMs);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  expect(s.state().containers[web]?.allocation?.epoch).toBe(4);
});

test("a report of an old epoch is told of once and changes nothing", async () => {
  await using cluster = await TestCluster.start();
  const lines: string[] = [];
  const logger = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
  const { s, agents } = await cluster.up(2, { ...LEASE, logger });
  const [n1] = agents as [SimulatedAgent];
  const web = await runOn(s, "web", "n1");
  const { id } = await move(s, web, "n2");
  await ended(s, id);
  const connection = await cluster.connect();
  const before = s.state().containers[web]?.allocation;
  const told = (): string[] => lines.filter((line) => line.includes("old epoch"));
  for (let times = 0; times < 2; times += 1) {
    const report = Report.fromPartial({
      info: n1.info,
      incarnation: n1.incarnation,
      allocations: [{ containerId: web, epoch: 1, state: AllocationState.FAILED, message: "forged" }],
    });
    await connection.request(reportSubject("n1"), Report.encode(report).finish(), { timeout: 2_000 });
  }
  expect(told().length).toBeGreaterThan(0);
  expect(told()[0]).toMatch(new RegExp(`"container":"${web}","epoch":1.*"owner":"n2","present":2`));
  expect(s.state().containers[web]?.allocation).toEqual(before);
});
