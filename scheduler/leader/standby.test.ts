/** Several schedulers over one log: who leads, who follows, and how it changes. */
import { expect, test } from "vitest";
import { ready, running, runOn, stateOf, TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { sampleSpec } from "../testing/sample.ts";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { BalanceSettings, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { withRequest } from "./request.ts";

const STORED = CheckpointState.STORED;

test("one leads and the others follow; a stop hands over at once, and containers do not notice", async () => {
  await using cluster = await TestCluster.start();
  // A lease that is longer than the test: nothing here may wait for it.
  const lease = { leaderLeaseMs: 60_000 };
  const { s, agents } = await cluster.up(1, { ...lease, addresses: ["unix:/s1"] });
  const s2 = await cluster.scheduler("s2", lease);
  const s3 = await cluster.scheduler("s3", lease);
  expect([s, s2, s3].map((one) => one.status().leading)).toEqual([true, false, false]);
  const id = await runOn(s, "web", "n1");
  await eventually("the others to follow", () => [s2, s3].every((one) => one.stateHash() === s.stateHash()));
  expect(s2.schedulers().map((one) => [one.id, one.role])).toEqual([
    ["s1", "leader"],
    ["s2", "standby"],
    ["s3", "standby"],
  ]);
  expect(s2.schedulers()[0]).toMatchObject({ addresses: ["unix:/s1"] });
  await expect(s2.setSchedulable("n1", false)).rejects.toMatchObject({
    code: "unavailable",
    message: /s1 does, with epoch 1/,
  });
  await expect(s2.confirm()).rejects.toMatchObject({ code: "unavailable" });
  await s.confirm();

  await s[Symbol.asyncDispose]();
  await eventually("another one to lead", () => [s2, s3].some((one) => one.status().leading));
  const [next, other] = s2.status().leading ? [s2, s3] : [s3, s2];
  await running(next, id);
  await eventually("the agent to follow it", () => agents[0]?.desired?.leaderEpoch === 2);
  expect(agents[0]?.held.get(id)).toMatchObject({ epoch: 1 });
  await next.setSchedulable("n1", false);
  await eventually("the third to follow", () => other.stateHash() === next.stateHash());
  expect(other.status()).toMatchObject({ leading: false, epoch: 2 });
});

test("a leader that vanished is replaced before its lease is over", async () => {
  await using cluster = await TestCluster.start();
  const connection = await cluster.connect();
  // Beats come each second: their absence is noticed, and it is certain that nobody answers, long before the lease ends.
  const lease = { leaderLeaseMs: 6_000 };
  await cluster.scheduler("s1", { connection, ...lease });
  const s2 = await cluster.scheduler("s2", lease);
  expect(s2.status().leaderId).toBe("s1");
  await connection.close();
  const closedAtMs = performance.now();
  await eventually("s2 to lead", () => s2.status().leading);
  expect(performance.now() - closedAtMs).toBeLessThan(6_000);
});

test("who was deposed follows, and may lead again", async () => {
  await using cluster = await TestCluster.start();
  const { s: s1 } = await cluster.up(1);
  const s2 = await cluster.scheduler("s2");
  for (const epoch of [2, 4]) {
    await s2.lead();
    await eventually("s1 to follow", () => s1.status().epoch === epoch);
    expect([s1.status().leading, s2.status().leading]).toEqual([false, true]);
    await expect(s1.setSchedulable("n1", true)).rejects.toMatchObject({ code: "unavailable" });
    await ready(s2, "n1");
    await s1.lead();
    await eventually("s2 to follow", () => s2.status().epoch === epoch + 1);
    await ready(s1, "n1");
  }
  const id = await runOn(s1, "web", "n1");
  await eventually("s2 to see it", () => stateOf(s2, id) === AllocationState.RUNNING);
  expect(s2.stateHash()).toBe(s1.stateHash());
});

test("a request that is made again changes nothing, at the next leader either", async () => {
  await using cluster = await TestCluster.start();
  const { s: s1 } = await cluster.up(2);
  const s2 = await cluster.scheduler("s2");
  const request = (number: number): string => number.toString(16).padStart(16, "0");
  const create = (s: typeof s1) => withRequest(request(1), () => s.createContainer(sampleSpec("web")));
  const first = await create(s1);
  expect(first.id).toBe(request(1));
  expect((await create(s1)).id).toBe(first.id);
  await expect(s1.createContainer(sampleSpec("web"))).rejects.toMatchObject({ code: "exists" });
  const restart = (s: typeof s1) => withRequest(request(2), () => s.setDesired(first.id, "restart"));
  await restart(s1);
  await running(s1, first.id);
  await s2.lead();
  expect((await create(s2)).id).toBe(first.id);
  await restart(s2);
  expect(s2.state().containers[first.id]?.restartGeneration).toBe(1);
  await ready(s2, "n1", "n2");
  await running(s2, first.id);
  const move = (s: typeof s1) =>
    withRequest(request(3), () =>
      s.startMigration({
        containerId: first.id,
        mode: "MIGRATION_MODE_AUTO",
        blackoutBudgetMs: 0,
        reason: "operator",
      }),
    );
  expect((await move(s2)).id).toBe(request(3));
  await eventually("the move to end", () => (s2.state().migrations[request(3)]?.endedAtMs ?? 0) > 0);
  expect((await move(s2)).state).toBe("MIGRATION_STATE_FINISHED");

  const remove = (s: typeof s1) => withRequest(request(4), () => s.removeContainer(first.id, true));
  await remove(s2);
  await eventually("it to be gone", () => s2.state().containers[first.id] === undefined);
  await remove(s2);
  await expect(create(s2)).rejects.toMatchObject({ code: "not-found", message: /removed again/ });
  await eventually("s1 to follow", () => s1.stateHash() === s2.stateHash());
});

test("so do services, checkpoints and settings", async () => {
  await using cluster = await TestCluster.start();
  const { s: s1 } = await cluster.up(3);
  const s2 = await cluster.scheduler("s2");
  let number = 0;
  /** Asked for twice at the first leader, and then at the next one. */
  const again: (() => Promise<unknown>)[] = [];
  const ask = async <T>(work: (s: typeof s1) => Promise<T>): Promise<T> => {
    const id = (number += 1).toString(16).padStart(16, "0");
    const askAt = (s: typeof s1): Promise<T> => withRequest(id, () => work(s));
    const answer = await askAt(s1);
    expect(await askAt(s1)).toEqual(answer);
    again.push(async () => expect(await askAt(s2)).toEqual(answer));
    return answer;
  };
  const web = (replicas: number, version: string): ServiceSpec =>
    ServiceSpec.fromPartial({
      name: "web",
      replicas,
      template: { ...sampleSpec(""), restart: RestartPolicy.ALWAYS, env: { version } },
    });
  const service = (): { version: number; revision: number } => {
    const { revision, version } = s1.state().services["web"] ?? { revision: 0, version: 0 };
    return { revision, version };
  };
  const apply = async (spec: ServiceSpec, expectedVersion: number): Promise<void> => {
    await ask(async (s) => {
      await s.services.apply([{ spec, expectedVersion }]);
    });
  };
  await apply(web(1, "a"), 0);
  expect(service()).toEqual({ revision: 1, version: 1 });
  await apply(web(1, "b"), 1);
  expect(service()).toEqual({ revision: 2, version: 2 });
  await ask((s) => s.services.scale("web", 2));
  const beforeRollBack = service();
  await ask((s) => s.services.rollBack("web", 0));
  expect(service().version).toBe(beforeRollBack.version + 1);

  const id = await runOn(s1, "redis", "n1");
  const checkpoint = await ask((s) => s.createCheckpoint(id));
  expect(Object.keys(s1.state().checkpoints)).toEqual([checkpoint]);
  await eventually("it to be stored", () => s1.state().checkpoints[checkpoint]?.state === STORED);
  await s1.setDesired(id, "stop");
  await eventually("it to be stopped", () => stateOf(s1, id) === AllocationState.EXITED);
  const before = s1.state().containers[id]?.allocation?.epoch ?? 0;
  await ask((s) => s.restoreCheckpoint(checkpoint));
  expect(s1.state().containers[id]?.allocation?.epoch).toBe(before + 1);
  await ask((s) => s.setFailover(false));
  await ask((s) => s.placement.setNodeLabels("n1", { zone: "a" }, []));
  await ask((s) => s.balancing.set(BalanceSettings.fromPartial({ parallel: 3 }), ["parallel"]));
  await ask((s) => s.placement.setProject("blue", { containers: 5 }));

  // What others have changed since is theirs: the old requests do not change it back.
  await s1.setFailover(true);
  await s1.placement.setNodeLabels("n1", { zone: "b" }, []);
  await s1.services.scale("web", 1);
  const stand = service();
  await s2.lead();
  for (const one of again) await one();
  expect(s2.state().failoverOff).toBe(false);
  expect(s2.state().nodes["n1"]?.labels).toEqual({ zone: "b" });
  expect(s2.state().services["web"]).toMatchObject(stand);
  expect(s2.state().containers[id]?.allocation?.epoch).toBe(before + 1);
  expect(Object.keys(s2.state().checkpoints)).toEqual([checkpoint]);
});
