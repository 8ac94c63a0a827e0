/** Migrations that do not go as planned, with a real log and agents that follow a script. */
import { expect, test } from "vitest";
import { MigrationPhase, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, DesiredState, MigrationState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import type { Scheduler } from "../mod.ts";
import { ended, move, runOn, stateOf, TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import type { AgentScript, SimulatedAgent } from "../testing/simulated-agent.ts";

const until = (held: MigrationPhase): AgentScript => ({ allows: (phase) => phase !== held });

interface Scene extends AsyncDisposable {
  readonly cluster: TestCluster;
  readonly s: Scheduler;
  readonly n1: SimulatedAgent;
  readonly n2: SimulatedAgent;
  readonly id: string;
}
/** One container on n1 of two nodes. */
const scene = async (options: { leaseMs?: number } = {}): Promise<Scene> => {
  const cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(2, options);
  const [n1, n2] = agents as [SimulatedAgent, SimulatedAgent];
  const id = await runOn(s, "web", "n1");
  return { cluster, s, n1, n2, id, [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose]() };
};
/** The source runs it as before, and nothing is left at the target. */
const asBefore = async ({ s, n1, n2, id }: Scene): Promise<void> => {
  await eventually("the source to run it as before", () => {
    const held = n1.held.get(id);
    return held?.state === AllocationState.RUNNING && held.epoch === 1 && n1.roleOf(id) === Role.OWNER;
  });
  await eventually("nothing at the target", () => n2.roleOf(id) === undefined && !n2.held.has(id));
  await eventually("the log to say so", () => stateOf(s, id) === AllocationState.RUNNING);
  expect(s.state().containers[id]).toMatchObject({ migrationId: "", allocation: { node: "n1", epoch: 1 } });
};
const phase = (s: Scheduler, id: string, side: "source" | "target", wanted: MigrationPhase): Promise<void> =>
  eventually(`the ${side} to be ${wanted}`, () => s.runtime().migration(id)?.[side]?.phase === wanted);

test("cancelled while the target prepares", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.READY);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "target", MigrationPhase.PREPARING);
  expect(all.n1.desired?.allocations[0]?.migration?.copy).toBe(false);
  await all.s.cancelMigration(id);
  expect(await ended(all.s, id)).toMatchObject({ state: MigrationState.ABORTED, error: "cancelled" });
  await asBefore(all);
  await expect(all.s.cancelMigration(id)).rejects.toMatchObject({ code: "refused", message: /was aborted/ });
});

test("cancelled while the source is frozen: it thaws", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.RESTORED);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "source", MigrationPhase.DUMPED);
  expect(all.n1.held.get(all.id)?.state).toBe(AllocationState.FROZEN);
  expect(all.s.runtime().container(all.id)?.state).toBe(AllocationState.FROZEN);
  expect(stateOf(all.s, all.id)).toBe(AllocationState.RUNNING);
  await all.s.cancelMigration(id);
  await ended(all.s, id);
  await asBefore(all);
});

test.each([
  [
    "the target refuses",
    MigrationPhase.READY,
    "n2",
    "lacks the cpu flag avx512",
    "the target n2 failed: lacks the cpu flag avx512",
  ],
  [
    "the dump fails",
    MigrationPhase.DUMPED,
    "n1",
    "criu dump failed",
    "the source n1 failed: criu dump failed",
  ],
] as const)("%s", async (_, at, node, why, error) => {
  await using all = await scene();
  (node === "n1" ? all.n1 : all.n2).script = { fails: (now) => (now === at ? why : undefined) };
  expect(await ended(all.s, (await move(all.s, all.id, "n2")).id)).toMatchObject({
    state: MigrationState.ABORTED,
    error,
  });
  await asBefore(all);
  // The next attempt is not taken for the failed one.
  all.n1.script = {};
  all.n2.script = {};
  expect((await ended(all.s, (await move(all.s, all.id, "n2")).id)).state).toBe(MigrationState.FINISHED);
});

test("the container exits during the move", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.READY);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "target", MigrationPhase.PREPARING);
  all.n1.exit(all.id, 7);
  expect(await ended(all.s, id)).toMatchObject({ error: "the container exited with code 7 during the move" });
  await eventually("the exit to be recorded", () => stateOf(all.s, all.id) === AllocationState.EXITED);
});

test("stopped during the move", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.RESTORED);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "source", MigrationPhase.DUMPED);
  await all.s.setDesired(all.id, "stop");
  expect(all.s.state().migrations[id]).toMatchObject({
    state: MigrationState.ABORTED,
    error: "the container was stopped",
  });
  await eventually("the container to stop", () => stateOf(all.s, all.id) === AllocationState.EXITED);
  await all.s.setDesired(all.id, "start");
  await eventually("the container to run again", () => stateOf(all.s, all.id) === AllocationState.RUNNING);
  expect(all.s.state().containers[all.id]).toMatchObject({
    desired: DesiredState.RUNNING,
    restartGeneration: 1,
  });
});

test("removed by force during the move", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.RESTORED);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "source", MigrationPhase.DUMPED);
  await expect(all.s.removeContainer(all.id, false)).rejects.toMatchObject({ code: "refused" });
  await all.s.removeContainer(all.id, true);
  await eventually("it to be forgotten", () => all.s.state().containers[all.id] === undefined);
  expect(all.n1.held.size + all.n2.held.size).toBe(0);
});

test("the target is lost before the switch", async () => {
  await using all = await scene({ leaseMs: 400 });
  all.n2.script = until(MigrationPhase.RESTORED);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "source", MigrationPhase.DUMPED);
  all.n2.mute(true);
  expect(await ended(all.s, id)).toMatchObject({
    state: MigrationState.ABORTED,
    error: "node n2 was lost (no report for 0.4 s)",
  });
  await eventually("the source to thaw", () => all.n1.held.get(all.id)?.state === AllocationState.RUNNING);
  all.n2.script = {};
  all.n2.mute(false);
  await asBefore(all);
});

test("the source is lost before the switch: ownership stays, and it thaws when it is back", async () => {
  await using all = await scene({ leaseMs: 400 });
  all.n2.script = until(MigrationPhase.RESTORED);
  const { id } = await move(all.s, all.id, "n2");
  await phase(all.s, id, "source", MigrationPhase.DUMPED);
  all.n1.mute(true);
  expect(await ended(all.s, id)).toMatchObject({ state: MigrationState.ABORTED, error: /node n1 was lost/ });
  expect(all.s.state().nodes["n1"]?.state).toBe(NodeState.LOST);
  all.n1.mute(false);
  await asBefore(all);
});

test("the source is lost after the switch: finished all the same, and its copy goes when it is back", async () => {
  await using all = await scene({ leaseMs: 400 });
  all.n1.script = until(MigrationPhase.RELEASED);
  const { id } = await move(all.s, all.id, "n2");
  await eventually("the switch", () => all.s.state().migrations[id]?.state === MigrationState.SWITCHED);
  await phase(all.s, id, "target", MigrationPhase.RUNNING);
  all.n1.mute(true);
  expect(await ended(all.s, id)).toMatchObject({ state: MigrationState.FINISHED });
  expect(all.n1.held.get(all.id)?.state).toBe(AllocationState.FROZEN);
  all.n1.mute(false);
  await eventually("the source to be empty", () => all.n1.held.size === 0);
  expect(all.s.state().containers[all.id]?.allocation).toMatchObject({ node: "n2", epoch: 2 });
});

test("no abort after the switch, whatever is asked for", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.RUNNING);
  const { id } = await move(all.s, all.id, "n2");
  await eventually("the switch", () => all.s.state().migrations[id]?.state === MigrationState.SWITCHED);
  await expect(all.s.cancelMigration(id)).rejects.toMatchObject({
    code: "refused",
    message: /already belongs to the target/,
  });
  await eventually("the orders", () => all.n2.roleOf(all.id) === Role.OWNER);
  // Nobody knows yet that it runs over there, so the frozen copy stays.
  expect(all.n1.held.get(all.id)?.state).toBe(AllocationState.FROZEN);
  expect(all.n2.desired?.allocations[0]).toMatchObject({
    epoch: 2,
    migration: { switched: true, peerNode: "n1" },
  });
  all.n2.script = {};
  expect((await ended(all.s, id)).state).toBe(MigrationState.FINISHED);
});

test("a target agent that was restarted after the switch and knows nothing of the move", async () => {
  await using all = await scene();
  all.n2.script = until(MigrationPhase.RUNNING);
  const { id } = await move(all.s, all.id, "n2");
  await eventually("the switch", () => all.s.state().migrations[id]?.state === MigrationState.SWITCHED);
  all.n2.forgetMigrations();
  all.n2.script = {};
  expect((await ended(all.s, id)).state).toBe(MigrationState.FINISHED);
});

test.each(["DUMPED", "RESTORED", "RUNNING"] as const)(
  "nats-server is killed before the phase %s",
  async (name) => {
    await using all = await scene();
    const held = MigrationPhase[name];
    all.n1.script = until(held);
    all.n2.script = until(held);
    const { id } = await move(all.s, all.id, "n2");
    if (name === "RUNNING")
      await eventually("the switch", () => all.s.state().migrations[id]?.state === MigrationState.SWITCHED);
    else await phase(all.s, id, "source", name === "DUMPED" ? MigrationPhase.FROZEN : MigrationPhase.DUMPED);
    await all.cluster.server.kill();
    all.n1.script = {};
    all.n2.script = {};
    await all.cluster.server.launch();
    expect((await ended(all.s, id)).state).toBe(MigrationState.FINISHED);
    await eventually(
      "one running copy",
      () => all.n1.held.size === 0 && all.n2.held.get(all.id)?.state === AllocationState.RUNNING,
    );
    expect(all.s.state().nodes).toMatchObject({
      n1: { state: NodeState.READY },
      n2: { state: NodeState.READY },
    });
  },
);

test.each(["COPYING", "RESTORED", "RUNNING"] as const)(
  "another scheduler takes over before the phase %s",
  async (name) => {
    await using all = await scene();
    const held = MigrationPhase[name];
    all.n1.script = until(held);
    all.n2.script = until(held);
    const { id } = await move(all.s, all.id, "n2");
    if (name === "RUNNING")
      await eventually("the switch", () => all.s.state().migrations[id]?.state === MigrationState.SWITCHED);
    else await phase(all.s, id, "target", MigrationPhase.RECEIVING);
    const next = await all.cluster.scheduler("s2");
    await next.lead();
    await eventually("the old leader to step down", () => !all.s.status().leading);
    await expect(all.s.setSchedulable("n1", false)).rejects.toMatchObject({ code: "unavailable" });
    all.n1.script = {};
    all.n2.script = {};
    expect((await ended(next, id)).state).toBe(MigrationState.FINISHED);
    await eventually(
      "one running copy",
      () => all.n1.held.size === 0 && all.n2.held.get(all.id)?.state === AllocationState.RUNNING,
    );
    expect(all.n2.desired?.leaderEpoch).toBe(2);
    await eventually("the old leader to follow", () => all.s.stateHash() === next.stateHash());
  },
);
