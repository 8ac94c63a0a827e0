/** The planner as scripts: what happens to a service, second by second. */
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NodeState, RolloutState, State } from "../../proto/gen/godwit/v1/log.ts";
import { OnFailure, UpdateOrder, type UpdatePolicy } from "../../proto/gen/godwit/v1/service.ts";
import { budgetOf } from "../model/service-policy.ts";
import { clusterOf } from "../state/cluster.ts";
import { idOf } from "../testing/drive.ts";
import { ENDED, ServiceWorld, webSpec, type Behaviour } from "../testing/service-world.ts";
import { command } from "./command.ts";

const update = (rest: Partial<UpdatePolicy>): { update: UpdatePolicy } => ({
  update: {
    batch: 1,
    pauseMs: 0,
    order: UpdateOrder.STOP_FIRST,
    onFailure: OnFailure.ROLLBACK,
    monitorMs: 0,
    timeoutMs: 60_000,
    ...rest,
  },
});

/** "web" with three containers of V=a, all well. */
const steady = (rest: Parameters<typeof webSpec>[1] = {}): ServiceWorld => {
  const world = new ServiceWorld();
  world.apply(webSpec("a", rest));
  world.settle();
  expect(world.service.rollout?.state).toBe(RolloutState.DONE);
  world.trace.length = 0;
  world.drive.atMs += 100_000;
  world.beganAtMs = world.drive.atMs;
  return world;
};

describe("scripts", () => {
  test("a first roll-out makes them all at once", () => {
    const world = new ServiceWorld();
    world.apply(webSpec("a"));
    world.settle();
    expect(world.trace).toEqual([
      "0: create web-1 of r1",
      "0: create web-2 of r1",
      "0: create web-3 of r1",
      "2000: r1 is out",
    ]);
    expect(world.summary).toBe("web-1:a web-2:a web-3:a");
  });

  test("stop-first replaces one at a time, with a pause between", () => {
    const world = steady(update({ pauseMs: 3_000 }));
    world.apply(webSpec("b", update({ pauseMs: 3_000 })));
    world.settle();
    expect(world.trace).toEqual([
      "0: retire web-1",
      "1000: remove web-1",
      "2000: create web-1 of r2",
      "6000: retire web-2",
      "7000: remove web-2",
      "8000: create web-2 of r2",
      "12000: retire web-3",
      "13000: remove web-3",
      "14000: create web-3 of r2",
      "16000: r2 is out",
    ]);
    expect(world.summary).toBe("web-1:b web-2:b web-3:b");
    expect(world.fewest).toBe(2);
  });

  test("start-first has the new one up before the old one goes; none is ever missing", () => {
    const terms = {
      ...update({ order: UpdateOrder.START_FIRST }),
      disruption: { limit: { $case: "maxUnavailable", value: 0 } as const },
    };
    const world = steady(terms);
    world.apply(webSpec("b", terms));
    world.settle();
    expect(world.trace.slice(0, 5)).toEqual([
      "0: create web-4 of r2",
      "2000: retire web-1",
      "3000: remove web-1",
      "4000: create web-1 of r2",
      "6000: retire web-2",
    ]);
    expect(world.summary).toBe("web-1:b web-2:b web-4:b");
    expect(world.fewest).toBe(3);
  });

  test.each<[Behaviour, string, number]>([
    ["crashes", "web-1 exited with code 1", 4_000],
    ["is-ill", "web-1 is unhealthy", 4_000],
    ["hangs", "web-1 was not up after 60 s: its health check has not succeeded", 62_000],
  ])("an update that %s is rolled back by itself", (behaviour, why, atMs) => {
    const world = steady(update({}));
    world.behaviour.set("b", behaviour);
    world.apply(webSpec("b", update({})));
    world.settle();
    expect(world.trace).toEqual([
      "0: retire web-1",
      "1000: remove web-1",
      "2000: create web-1 of r2",
      `${atMs}: r2 failed: ${why}`,
      `${atMs + 1_000}: retire web-1`,
      `${atMs + 2_000}: remove web-1`,
      `${atMs + 3_000}: create web-1 of r1`,
      `${atMs + 5_000}: r1 is out`,
    ]);
    expect(world.service).toMatchObject({
      revision: 1,
      stableRevision: 1,
      lastRevision: 2,
      rollout: { state: RolloutState.ROLLED_BACK, failure: why, failedRevision: 2 },
    });
    expect(world.summary).toBe("web-1:a web-2:a web-3:a");
  });

  test("or stands still, where that is wanted, and begins again when it is applied again", () => {
    const world = steady(update({ onFailure: OnFailure.PAUSE }));
    world.behaviour.set("b", "crashes");
    const next = webSpec("b", update({ onFailure: OnFailure.PAUSE }));
    world.apply(next);
    world.settle();
    expect(world.service.rollout).toMatchObject({ state: RolloutState.PAUSED, failedRevision: 2 });
    expect(world.summary).toBe("web-1:b! web-2:a web-3:a");
    world.behaviour.delete("b");
    world.apply(next);
    world.settle();
    expect(world.service.rollout?.state).toBe(RolloutState.DONE);
    expect(world.summary).toBe("web-1:b web-2:b web-3:b");
  });

  test("one that stands still is done when it has got well by itself", () => {
    const world = new ServiceWorld();
    world.behaviour.set("a", "crashes");
    world.apply(webSpec("a"));
    world.settle();
    expect(world.service.rollout).toMatchObject({ state: RolloutState.PAUSED });
    world.behaviour.delete("a");
    world.act();
    world.settle();
    expect(world.service).toMatchObject({ stableRevision: 1, rollout: { state: RolloutState.DONE } });
  });

  test("what both revisions fail in stands still in the end", () => {
    const world = steady(update({}));
    world.behaviour.set("a", "crashes").set("b", "crashes");
    world.apply(webSpec("b", update({})));
    world.settle();
    expect(world.service.rollout).toMatchObject({
      state: RolloutState.PAUSED,
      failure: expect.stringMatching(
        /web-\d exited with code 1; and going back: web-\d was not up after 60 s/,
      ),
    });
  });

  test("scaling takes away what is ill first, then the newest", () => {
    const world = steady({ replicas: 4 });
    world.drive.atMs += 10_000;
    world.drive.must(command("serviceScaled", { name: "web", replicas: 5 }));
    world.settle();
    world.trace.length = 0;
    world.drive.observe(2, "ALLOCATION_STATE_RUNNING", 0, "HEALTH_STATE_UNHEALTHY");
    world.drive.must(command("serviceScaled", { name: "web", replicas: 3 }));
    world.plan();
    expect(world.trace.map((line) => line.split(": ")[1])).toEqual(["retire web-2", "retire web-5"]);
    world.settle();
    expect(world.summary).toBe("web-1:a web-3:a web-4:a");
  });

  test("what needs no restart is taken over in place", () => {
    const world = steady();
    const spec = webSpec("a");
    if (spec.template !== undefined) spec.template.labels = { tier: "front" };
    world.apply(spec);
    world.settle();
    expect(world.trace).toEqual(["0: amend web-1", "0: amend web-2", "0: amend web-3", "1000: r2 is out"]);
    expect(world.containers.every((one) => one.spec?.labels["tier"] === "front")).toBe(true);
  });

  test("a container that moves is left alone until it has arrived", () => {
    const world = steady();
    expect(world.drive.startMove(90, 1, "n2")).toBeUndefined();
    world.apply(webSpec("b"));
    world.plan();
    world.drive.must(command("serviceScaled", { name: "web", replicas: 0 }));
    world.plan();
    world.act();
    world.plan();
    expect(world.trace.filter((line) => line.includes("web-1"))).toEqual([]);
    world.drive.must(command("migrationAborted", { id: idOf(90), reason: "" }));
    world.settle();
    expect(world.summary).toBe("");
  });

  test("what was removed by hand is made again; what was stopped by hand stays stopped", () => {
    const world = steady();
    world.drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
    const stopped = world.drive.container(2);
    const { restartGeneration } = stopped;
    world.drive.must(
      command("containerDesiredSet", { id: stopped.id, desired: "DESIRED_STATE_STOPPED", restartGeneration }),
    );
    world.settle();
    expect(world.trace).toEqual(["1000: create web-1 of r1"]);
    expect(world.summary).toBe("web-1:a web-2:a! web-3:a");
  });

  test("an update waits for a node that is lost, and does not blame the revision", () => {
    const world = steady(update({}));
    world.drive.must(command("nodeStateChanged", { node: "n3", state: NodeState.LOST, reason: "" }));
    world.apply(webSpec("b", update({})));
    for (let second = 0; second < 200; second += 1) {
      world.plan();
      for (const one of world.containers)
        if (one.allocation?.node === "n3" && one.spec?.env["V"] === "b")
          throw new Error("the test places nothing on the lost node");
      if (world.containers.some((one) => one.removing || one.retiring || one.allocation === undefined)) break;
      world.drive.atMs += 1_000;
    }
    // One is missing already, so that the budget is spent: nothing that works is stopped.
    expect(world.trace).toEqual([]);
    expect(world.service.rollout?.state).toBe(RolloutState.RUNNING);
    world.drive.must(command("nodeStateChanged", { node: "n3", state: NodeState.READY, reason: "" }));
    world.settle();
    expect(world.summary).toBe("web-1:b web-2:b web-3:b");
  });

  test("where no container can be made, it says why and gives up after a while; with room it goes on", () => {
    const world = new ServiceWorld();
    const project = { name: "shop", memoryBytes: 0, cpuMillis: 0, diskBytes: 0, containers: 2 };
    world.drive.must(command("projectSet", { project }));
    const terms = update({});
    world.apply(webSpec("a", { ...terms, template: { project: "shop" } }));
    world.settle();
    expect(world.containers).toHaveLength(2);
    expect(world.service.rollout).toMatchObject({
      state: RolloutState.PAUSED,
      failure: expect.stringContaining("project shop may have 2 containers and has 2"),
    });
    world.drive.must(command("projectSet", { project: { ...project, containers: 3 } }));
    world.settle();
    expect(world.containers).toHaveLength(3);
    expect(world.service.rollout?.state).toBe(RolloutState.DONE);
  });

  test("a removal stops them all, and then the service is gone", () => {
    const world = steady();
    world.drive.must(command("serviceRemoveRequested", { name: "web" }));
    for (let second = 0; second < 5; second += 1) {
      world.plan();
      world.act();
    }
    expect(world.trace.map((line) => line.split(": ")[1])).toEqual([
      ...["retire web-1", "retire web-2", "retire web-3"],
      ...["remove web-1", "remove web-2", "remove web-3", "gone"],
    ]);
    expect(world.cluster.state.services).toEqual({});
    expect([...world.cluster.unsettled]).toEqual([]);
  });

  test("a service that needs nothing is not looked at again", () => {
    const world = steady();
    world.plan();
    expect([...world.cluster.unsettled]).toEqual([]);
    world.drive.observe(1, "ALLOCATION_STATE_EXITED", 1);
    expect([...world.cluster.unsettled]).toEqual(["web"]);
  });
});

const behaviour = fc.constantFrom<Behaviour>("works", "works", "crashes", "is-ill", "hangs");
const terms = fc.record({
  replicas: fc.integer({ min: 1, max: 6 }),
  batch: fc.integer({ min: 1, max: 4 }),
  pauseMs: fc.constantFrom(0, 2_000),
  monitorMs: fc.constantFrom(0, 3_000),
  startFirst: fc.boolean(),
  percent: fc.boolean(),
  unavailable: fc.integer({ min: 1, max: 4 }),
});

test("whatever is applied: the budget holds, it ends, and ends with what works", () => {
  let rolledBack = 0;
  fc.assert(
    fc.property(
      terms,
      behaviour,
      behaviour,
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 0, max: 6 }),
      (given, second, third, pauseAt, restoreAt, scaledTo) => {
        const { percent, replicas, startFirst, unavailable, ...rest } = given;
        const spec = (value: string, count = replicas) =>
          webSpec(value, {
            replicas: count,
            ...update({
              ...rest,
              order: startFirst ? UpdateOrder.START_FIRST : UpdateOrder.STOP_FIRST,
            }),
            disruption: {
              limit: percent
                ? { $case: "maxUnavailablePercent", value: unavailable * 20 }
                : { $case: "maxUnavailable", value: unavailable },
            },
          });
        const world = new ServiceWorld();
        world.apply(spec("a"));
        world.settle();
        world.behaviour.set("b", second).set("c", third);
        world.apply(spec("b"));
        for (let step = 0; step < 60; step += 1) {
          if (step === pauseAt) world.apply(spec("c"));
          if (step === restoreAt)
            world.drive.must(command("serviceScaled", { name: "web", replicas: scaledTo }));
          const floor = Math.min(replicas - budgetOf(spec("a")), scaledTo - budgetOf(spec("a", scaledTo)));
          world.plan();
          world.act();
          // Only what was new and ill may be missing beyond the budget, and of that at most one batch.
          const ill = world.containers.filter(
            (one) => (world.behaviour.get(one.spec?.env["V"] ?? "") ?? "works") !== "works",
          ).length;
          expect(world.available + ill).toBeGreaterThanOrEqual(Math.min(floor, replicas));
          world.drive.atMs += 1_000;
        }
        world.settle(900);
        const { rollout, spec: now } = world.service;
        expect(ENDED.has(rollout?.state ?? RolloutState.UNSPECIFIED)).toBe(true);
        if (rollout?.state === RolloutState.ROLLED_BACK) rolledBack += 1;
        expect(world.containers).toHaveLength(now?.replicas ?? -1);
        if (rollout?.state !== RolloutState.PAUSED) {
          const wanted = now?.template?.env["V"];
          expect(world.containers.every((one) => one.spec?.env["V"] === wanted)).toBe(true);
          expect(world.available).toBe(now?.replicas);
        }
      },
    ),
    { numRuns: 150 },
  );
  expect(rolledBack).toBeGreaterThan(10);
});

test("another leader plans the same from a snapshot, at any point", () => {
  const world = steady(update({ batch: 2 }));
  world.behaviour.set("b", "is-ill");
  world.apply(webSpec("b", update({ batch: 2 })));
  for (let step = 0; step < 30; step += 1) {
    const copy = clusterOf(State.decode(State.encode(world.cluster.state).finish()));
    const other = new ServiceWorld();
    Object.assign(other.drive, { cluster: copy });
    other.drive.atMs = world.drive.atMs;
    other.beganAtMs = world.beganAtMs;
    const before = world.trace.length;
    world.plan();
    other.plan();
    expect(other.trace).toEqual(world.trace.slice(before));
    world.act();
    world.drive.atMs += 1_000;
  }
  expect(world.service.rollout?.state).toBe(RolloutState.ROLLED_BACK);
});
