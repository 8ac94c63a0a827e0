/** Nodes, placement, removal, drains and bad input, with a real log and simulated agents. */
import { expect, test } from "vitest";
import { reportSubject } from "../../proto/contract/subjects.ts";
import { MigrationPhase, Report, ReportReply } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, MigrationPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { ended, move, ready, running, runOn, stateOf, TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { memoryLimit, MIB, sampleImage, sampleNode, sampleSpec } from "../testing/sample.ts";
import type { SimulatedAgent } from "../testing/simulated-agent.ts";

test("a silent node is lost, and back when it reports", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(1, { leaseMs: 300 });
  const [n1] = agents as [SimulatedAgent];
  const id = await runOn(s, "web", "n1");
  n1.mute(true);
  await eventually("n1 to be lost", () => s.state().nodes["n1"]?.state === NodeState.LOST);
  expect(s.state().nodes["n1"]?.stateReason).toBe("no report for 0.3 s");
  expect(s.runtime().node("n1")?.leaseMs).toBeLessThanOrEqual(0);
  expect(s.status().warnings).toEqual([
    expect.stringMatching(/^node n1 is lost: no report for 0.3 s; nothing is known to stop/),
  ]);
  await expect(s.removeContainer(id, false)).rejects.toMatchObject({ code: "refused" });
  n1.mute(false);
  await ready(s, "n1");
  expect(stateOf(s, id)).toBe(AllocationState.RUNNING);
  expect(n1.held.get(id)?.epoch).toBe(1);
});

test("a restarted nats-server does not make nodes lost", async () => {
  await using cluster = await TestCluster.start();
  const { s } = await cluster.up(2, { leaseMs: 400 });
  const { logSequence } = s.status();
  await cluster.server.kill();
  await eventually("the connection to be seen as broken", () =>
    s.status().warnings.some((one) => one.startsWith("not connected")),
  );
  const brokenAt = performance.now();
  await eventually("more than a lease to pass", () => performance.now() - brokenAt > 600);
  await cluster.server.launch();
  await eventually(
    "reports to come in again",
    () => (s.runtime().node("n1")?.leaseMs ?? 0) > 0 && s.status().warnings.length === 0,
  );
  await s.setSchedulable("n1", true);
  expect(s.status().logSequence).toBe(logSequence + 1);
});

test("a second agent of the same name is refused while the first one lives", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(1, { leaseMs: 500 });
  const [n1] = agents as [SimulatedAgent];
  const id = await runOn(s, "web", "n1");
  const twin = await cluster.agent("n1", { incarnation: "other" });
  await eventually("the twin to be answered", () => twin.replies.length > 0);
  expect(twin.replies[0]).toMatchObject({
    accepted: false,
    refusal: /another agent is node n1 already \(incarnation i-n1/,
  });
  expect(twin.desired?.allocations ?? []).toEqual([]);
  expect(s.state().nodes["n1"]?.incarnation).toBe("i-n1");
  await n1[Symbol.asyncDispose]();
  await eventually("the twin to be taken in", () => s.state().nodes["n1"]?.incarnation === "other");
  await eventually(
    "the twin to run the container",
    () => twin.held.get(id)?.state === AllocationState.RUNNING,
  );
});

test("a node that shows another stream key is refused until an operator trusts it", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(2, { leaseMs: 500 });
  const [n1] = agents as [SimulatedAgent];
  n1.info.streamKey = Buffer.alloc(32, 1);
  await eventually("the first key to be kept", () => s.state().nodes["n1"]?.info?.streamKey.length === 32);
  n1.info.streamKey = Buffer.alloc(32, 2);
  await eventually("a refusal", () => /godwit node trust n1/.test(n1.replies.at(-1)?.refusal ?? ""));
  expect(s.status().warnings).toContainEqual(expect.stringContaining("godwit node trust n1"));
  await eventually("its lease to end", () => s.state().nodes["n1"]?.state === NodeState.LOST);
  await s.trustNodeKey("n1", n1.info.streamKey);
  await eventually("it to be taken in", () => s.state().nodes["n1"]?.state === NodeState.READY);
  expect(s.status().warnings).not.toContainEqual(expect.stringContaining("trust"));
  // Who is to move something there learns of the new key.
  const id = await runOn(s, "web", "n2");
  const agent = agents[1] as SimulatedAgent;
  agent.script = { allows: (phase) => phase !== MigrationPhase.DUMPED };
  await s.startMigration({
    containerId: id,
    to: "n1",
    mode: MigrationMode.AUTO,
    blackoutBudgetMs: 0,
    bandwidthBytesPerSecond: 5_000,
    reason: "operator",
  });
  await eventually("the order", () => agent.desired?.allocations[0]?.migration !== undefined);
  expect(agent.desired?.allocations[0]?.migration).toMatchObject({
    peerNode: "n1",
    peerKey: Buffer.alloc(32, 2),
    bandwidthBytesPerSecond: 5_000,
  });
});

test("a node whose description changes is described anew", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(1);
  const [n1] = agents as [SimulatedAgent];
  n1.info.memoryBytes = 2048 * MIB;
  await eventually("the new size", () => s.state().nodes["n1"]?.info?.memoryBytes === 2048 * MIB);
  const { logSequence } = s.status();
  n1.act();
  const seen = n1.replies.length;
  await eventually("more reports", () => n1.replies.length > seen + 2);
  expect(s.status().logSequence).toBe(logSequence);
});

test("bad reports get a clear refusal and change nothing", async () => {
  await using cluster = await TestCluster.start();
  const { s } = await cluster.up(1);
  const connection = await cluster.connect();
  const answer = async (data: Uint8Array | string): Promise<ReportReply> =>
    ReportReply.decode((await connection.request(reportSubject("n2"), data, { timeout: 2_000 })).data);
  const report = (info: object | undefined, incarnation = "x"): Uint8Array =>
    Report.encode(
      Report.fromPartial({
        incarnation,
        ...(info === undefined ? {} : { info: { ...sampleNode("n2"), ...info } }),
      }),
    ).finish();
  const cases: [Uint8Array | string, RegExp][] = [
    ["\xff\xff garbage", /no report/],
    [report(undefined), /which node/],
    [report({}, ""), /incarnation/],
    [report({ name: "N 2" }), /no node name/],
    [report({ name: "a.b" }), /no node name/],
    [report({ cpuMillis: 0 }), /cpu/],
    [report({ memoryBytes: 0 }), /no memory/],
    [report({ underlayAddress: "::1" }), /IPv4/],
    [report({ underlayAddress: "10.0.0.300" }), /IPv4/],
    [report({ kernel: "x".repeat(300) }), /kernel/],
    [report({ cpuFlags: Array.from({ length: 2_000 }, () => "f") }), /cpu flags/],
    // Nobody speaks for another node: NATS lets each agent publish under its own name alone.
    [report({ name: "n1" }, "i-n1"), /another node's/],
  ];
  const { logSequence } = s.status();
  for (const [data, refusal] of cases) expect(await answer(data)).toMatchObject({ accepted: false, refusal });
  expect(s.status().logSequence).toBe(logSequence);
});

test("what cannot be created is said at once, what may fit later waits for room", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(2);
  const [n1] = agents as [SimulatedAgent];
  const create = (rest: object): Promise<unknown> => s.createContainer(sampleSpec("web", rest));
  await expect(create({ image: "nginx" })).rejects.toMatchObject({
    code: "not-found",
    message: /no image nginx/,
  });
  await expect(create({ node: "n9" })).rejects.toMatchObject({ code: "not-found", message: /no node n9/ });
  await expect(create(memoryLimit(1))).rejects.toMatchObject({ code: "invalid", message: /at least 6 MiB/ });
  await expect(create(memoryLimit(2048))).rejects.toMatchObject({
    code: "exhausted",
    message: "2 GiB of memory is more than any node has (1 GiB)",
  });
  await expect(create({ name: "Web" })).rejects.toMatchObject({ code: "invalid" });
  await expect(create({ env: { A: "x".repeat(300_000) } })).rejects.toMatchObject({
    code: "invalid",
    message: /256 KiB/,
  });

  const first = await runOn(s, "first", "n1", memoryLimit(600));
  await expect(s.createContainer(sampleSpec("first"))).rejects.toMatchObject({ code: "exists" });
  await runOn(s, "second", "n2", memoryLimit(700));
  const { id } = await s.createContainer(sampleSpec("third", memoryLimit(500)));
  await eventually("the reason", () => s.state().containers[id]?.placementFailure !== "");
  expect(s.state().containers[id]?.placementFailure).toBe(
    "no node fits: 2 of 2 lack 500 MiB of memory (n1 has most free: 424 MiB)",
  );
  await expect(move(s, id)).rejects.toMatchObject({
    code: "refused",
    message: /has no node yet: no node fits/,
  });
  await s.removeContainer(first, true);
  await running(s, id);
  expect(s.state().containers[id]).toMatchObject({ placementFailure: "", allocation: { node: "n1" } });
  expect([...n1.held.keys()]).toEqual([id]);
  await expect(s.removeImage("redis")).rejects.toMatchObject({ code: "refused", message: /second, third/ });
});

test("whoever asks for a container waits for one entry of the log, which places it too", async () => {
  await using cluster = await TestCluster.start();
  const { s } = await cluster.up(2);
  const created = await Promise.all([1, 2].map((at) => s.createContainer(sampleSpec(`c${at}`))));
  const nodes = created.map(({ id }) => s.state().containers[id]?.allocation?.node);
  expect(new Set(nodes)).toEqual(new Set(["n1", "n2"]));
});

test("containers go to the least loaded node", async () => {
  await using cluster = await TestCluster.start();
  const { s } = await cluster.up(3);
  const nodes: string[] = [];
  for (let at = 0; at < 6; at += 1) {
    const { id } = await s.createContainer(sampleSpec(`c${at}`, memoryLimit(100)));
    await running(s, id);
    nodes.push(s.state().containers[id]?.allocation?.node ?? "");
  }
  expect(nodes).toEqual(["n1", "n2", "n3", "n1", "n2", "n3"]);
});

test("a container on a lost node is removed by force, and its copy goes when the node is back", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(1, { leaseMs: 300 });
  const [n1] = agents as [SimulatedAgent];
  const id = await runOn(s, "web", "n1");
  n1.mute(true);
  await eventually("n1 to be lost", () => s.state().nodes["n1"]?.state === NodeState.LOST);
  await s.removeContainer(id, true);
  await eventually("it to be forgotten", () => s.state().containers[id] === undefined);
  n1.mute(false);
  await eventually("its copy to go", () => n1.held.size === 0);
  expect(s.state().nodes["n1"]?.state).toBe(NodeState.READY);
});

test("moves that may not be made say why", async () => {
  await using cluster = await TestCluster.start();
  const { s } = await cluster.up(2);
  const id = await runOn(s, "web", "n1");
  const plan =
    (rest: object): (() => unknown) =>
    () =>
      s.planMove({
        containerId: id,
        mode: MigrationMode.AUTO,
        blackoutBudgetMs: 0,
        reason: "operator",
        ...rest,
      });
  expect(plan({})()).toEqual({
    from: "n1",
    to: "n2",
    mode: MigrationMode.PRECOPY,
    blackoutBudgetMs: 0,
    bandwidthBytesPerSecond: 0,
  });
  expect(plan({ containerId: "0000000000000000" })).toThrow(/no container/);
  expect(plan({ to: "n1" })).toThrow(/already on n1/);
  expect(plan({ to: "n7" })).toThrow(/no node n7/);
  expect(plan({ mode: MigrationMode.POSTCOPY })()).toMatchObject({ mode: MigrationMode.POSTCOPY });
  await s.setSchedulable("n2", false);
  expect(plan({ to: "n2" })).toThrow(/n2 is cordoned/);
  expect(plan({})).toThrow("web cannot be moved: no node fits: 1 of 1 cordoned");
  await s.setDesired(id, "stop");
  await eventually("it to stop", () => stateOf(s, id) === AllocationState.EXITED);
  expect(plan({})).toThrow(/is stopped/);
});

test("a drain moves what it can and says why the rest stays", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(2);
  const [, n2] = agents as [SimulatedAgent, SimulatedAgent];
  const stopped = await runOn(s, "asleep", "n1");
  await s.setDesired(stopped, "stop");
  await runOn(s, "big", "n1", memoryLimit(600));
  await runOn(s, "blocker", "n2", memoryLimit(600));
  const moody = await runOn(s, "moody", "n1");
  await runOn(s, "mover", "n1");
  await runOn(s, "pinned", "n1", { migration: MigrationPolicy.NEVER });
  await eventually("it to stop", () => stateOf(s, stopped) === AllocationState.EXITED);
  n2.script = {
    fails: (phase, id) => (id === moody && phase === MigrationPhase.READY ? "no such cpu" : undefined),
  };

  const planned = s.planDrain("n1");
  expect(planned).toMatchObject({
    state: "planned",
    remaining: [{ container: "moody", to: "n2" }, { container: "mover", to: "n2" }, { container: "asleep" }],
  });
  await s.startDrain({ node: "n1", deadlineMs: 0, parallel: 2, force: false });
  await expect(s.startDrain({ node: "n1", deadlineMs: 0, parallel: 2, force: false })).rejects.toMatchObject({
    code: "refused",
  });
  await eventually("the drain to end", () => s.drainProgress("n1")?.state !== "draining");
  const progress = s.drainProgress("n1");
  expect(progress).toMatchObject({
    state: "failed",
    error: /^cannot be moved: big \(no node fits: 1 of 1 lacks 600 MiB/,
  });
  expect(progress?.moved).toMatchObject([{ container: "mover", to: "n2", blackoutMs: 120 }]);
  expect(progress?.failed.map(({ container, reason }) => [container, reason])).toEqual([
    ["big", "no node fits: 1 of 1 lacks 600 MiB of memory (has 424 MiB free)"],
    ["moody", "failed to move 3 times, last: the target n2 failed: no such cpu"],
    ["pinned", 'pinned has the migration policy "never"'],
  ]);
  expect(progress?.remaining).toMatchObject([{ container: "asleep", reason: /^stopped: stays/ }]);
  expect(s.state().nodes["n1"]?.schedulable).toBe(false);
});

test("a drain lets a move that is under way at its deadline come to its end, and can be cancelled or undone", async () => {
  await using cluster = await TestCluster.start();
  const { s, agents } = await cluster.up(2);
  const [, n2] = agents as [SimulatedAgent, SimulatedAgent];
  const id = await runOn(s, "web", "n1");
  n2.script = { allows: (phase) => phase !== MigrationPhase.READY };
  const drain = { node: "n1", deadlineMs: 0, parallel: 1, force: false };
  await s.startDrain({ ...drain, deadlineMs: 200 });
  await eventually("a while after the deadline", () => (s.drainProgress("n1")?.totalMs ?? 0) > 700);
  expect(s.drainProgress("n1")?.state).toBe("draining");
  const first = s.state().containers[id]?.migrationId ?? "";
  await s.cancelDrain("n1");
  expect(s.drainProgress("n1")?.state).toBe("cancelled");
  await expect(s.cancelDrain("n1")).rejects.toMatchObject({ code: "refused" });
  await s.startDrain(drain);
  await s.setSchedulable("n1", true);
  expect(s.drainProgress("n1")?.state).toBe("cancelled");
  n2.script = {};
  await ended(s, first);
  await expect(s.startDrain({ ...drain, node: "n9" })).rejects.toMatchObject({ code: "not-found" });
});

test("watchers see changes and events as they happen", async () => {
  await using cluster = await TestCluster.start();
  const { s } = await cluster.up(1);
  const stop = new AbortController();
  const kinds: string[] = [];
  let changes = 0;
  const following = (async () => {
    for await (const event of s.events({ sinceMs: 0, follow: true, signal: stop.signal }))
      kinds.push(event.kind);
  })();
  const watching = (async () => {
    for await (const _ of s.changes(stop.signal)) changes += 1;
  })();
  await eventually("past events", () => kinds.includes("node.joined"));
  await cluster.server.kill();
  await cluster.server.launch();
  await s.addImage(sampleImage("other", "d"));
  await eventually("new events", () => kinds.filter((kind) => kind === "image.added").length === 2);
  expect(changes).toBeGreaterThan(0);
  stop.abort();
  await Promise.all([following, watching]);
  const again = await cluster.scheduler("s2");
  await again.lead();
  await again.setSchedulable("n1", false);
  const all: string[] = [];
  await eventually("the newest event", async () => {
    all.length = 0;
    for await (const event of again.events({ sinceMs: 0, follow: false, signal: AbortSignal.timeout(5_000) }))
      all.push(event.kind);
    return all.includes("node.cordoned");
  });
  expect(all.filter((kind) => kind === "image.added")).toHaveLength(2);
  expect(all.filter((kind) => kind === "leader.elected")).toHaveLength(2);
});

test("a scheduler that cannot begin says why", async () => {
  await using cluster = await TestCluster.start();
  await expect(cluster.scheduler("S 1")).rejects.toMatchObject({ code: "invalid" });
  await expect(cluster.scheduler("s1", { replicas: 2 })).rejects.toMatchObject({ code: "invalid" });
});
