import { expect, test } from "vitest";
import { MigrationPhase, Role } from "../../proto/gen/godwit/v1/agent.ts";
import type { Event } from "../../proto/gen/godwit/v1/api.ts";
import { AllocationState, MigrationState } from "../../proto/gen/godwit/v1/log.ts";
import { JetStreamLog } from "../log/jetstream-log.ts";
import { Replica } from "../log/replica.ts";
import { ended, move, ready, running, runOn, stateOf, TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import type { SimulatedAgent } from "../testing/simulated-agent.ts";

test("a cluster's life: join, run, move, abort, drain, remove, restart from the log", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(2);
  const [n1, n2] = agents as [SimulatedAgent, SimulatedAgent];

  const id = await runOn(s, "web", "n1");
  expect(s.state().containers[id]).toMatchObject({
    address: "10.80.0.2",
    mac: "02:57:0a:50:00:02",
    allocation: { node: "n1", epoch: 1 },
  });
  expect(n1.desired?.network).toMatchObject({ nodeAddress: "10.95.224.1/12", cidr: "10.80.0.0/12" });
  // The same for all: an agent knows which one it is itself.
  expect(n1.desired?.peers).toEqual(
    [n1, n2].map(({ info }) => ({ node: info.name, underlayAddress: info.underlayAddress })),
  );

  const moved = await ended(s, (await move(s, id, "n2")).id);
  expect(moved).toMatchObject({
    state: MigrationState.FINISHED,
    figures: { blackoutMs: 120, dumpMs: 60, restoreMs: 40, sentBytes: 4096 },
  });
  await running(s, id);
  expect(s.state().containers[id]?.allocation).toMatchObject({ node: "n2", epoch: 2 });
  await eventually("n1 to be empty", () => n1.held.size === 0 && n1.roleOf(id) === undefined);

  n1.script = { fails: (phase) => (phase === MigrationPhase.RESTORED ? "criu restore failed" : undefined) };
  const aborted = await ended(s, (await move(s, id, "n1")).id);
  expect(aborted).toMatchObject({
    state: MigrationState.ABORTED,
    error: "the target n1 failed: criu restore failed",
  });
  await eventually(
    "the source to run it again",
    () => n2.held.get(id)?.state === AllocationState.RUNNING && n2.roleOf(id) === Role.OWNER,
  );
  expect(s.state().containers[id]?.allocation).toMatchObject({
    node: "n2",
    epoch: 2,
    state: AllocationState.RUNNING,
  });

  n1.script = {};
  const second = await runOn(s, "db", "n2");
  expect(s.planDrain("n2").remaining.map(({ container, to }) => ({ container, to }))).toEqual([
    { container: "db", to: "n1" },
    { container: "web", to: "n1" },
  ]);
  await s.startDrain({ node: "n2", deadlineMs: 0, parallel: 1, force: false });
  await eventually("the drain to end", () => s.drainProgress("n2")?.state !== "draining");
  expect(s.drainProgress("n2")).toMatchObject({ state: "drained", failed: [], remaining: [], error: "" });
  expect(
    s
      .drainProgress("n2")
      ?.moved.map((item) => item.container)
      .toSorted(),
  ).toEqual(["db", "web"]);
  expect(n2.held.size).toBe(0);

  await expect(s.removeContainer(second, false)).rejects.toMatchObject({ code: "refused" });
  await s.setDesired(second, "stop");
  await eventually("db to stop", () => stateOf(s, second) === AllocationState.EXITED);
  await s.removeContainer(second, false);
  await eventually("db to be gone", () => s.state().containers[second] === undefined && !n1.held.has(second));

  const kinds: string[] = [];
  const signal = AbortSignal.timeout(10_000);
  await eventually("all events", async () => {
    const all: Event[] = [];
    for await (const event of s.events({ sinceMs: 0, follow: false, signal })) all.push(event);
    kinds.splice(0, kinds.length, ...all.map((event) => event.kind));
    return kinds.includes("container.removed");
  });
  for (const kind of [
    "leader.elected",
    "node.joined",
    "image.added",
    "container.created",
    "container.running",
    "container.exited",
  ])
    expect(kinds).toContain(kind);
  for (const kind of [
    "migration.started",
    "migration.switched",
    "migration.finished",
    "migration.aborted",
    "drain.started",
    "drain.ended",
  ])
    expect(kinds).toContain(kind);

  const before = s.status();
  const hash = s.stateHash();
  await s[Symbol.asyncDispose]();
  const again = await cluster.scheduler("s2");
  await ready(again, "n1", "n2");
  expect(again.status()).toMatchObject({ leaderId: "s2", leading: true, epoch: before.epoch + 1 });
  // A replica that stops where the first scheduler did has the same state.
  const log = await JetStreamLog.open(await cluster.connect(), { replicas: 1, writer: "test" });
  const replica = new Replica();
  for await (const entry of log.read(1, before.logSequence)) replica.apply(entry);
  expect(replica.hash()).toBe(hash);
  expect(again.state().containers[id]?.allocation).toMatchObject({
    node: "n1",
    epoch: 3,
    state: AllocationState.RUNNING,
  });
  expect(n1.held.get(id)?.state).toBe(AllocationState.RUNNING);
  await expect(move(again, id)).rejects.toMatchObject({
    code: "exhausted",
    message: "web cannot be moved: no node fits: 1 of 1 cordoned",
  });
  await again.setSchedulable("n2", true);
  expect(await ended(again, (await move(again, id)).id)).toMatchObject({
    to: "n2",
    state: MigrationState.FINISHED,
  });
});
