import { describe, expect, test } from "vitest";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, DesiredState, NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationPolicy, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { memoryLimit } from "../testing/sample.ts";
import { command } from "./command.ts";
import { viewDrain } from "./drain.ts";
import { UNSEEN } from "./movable.ts";
import { reconcile } from "./reconcile.ts";

const setup = (
  ...nodes: string[]
): { drive: Drive; volatile: FakeVolatile; round: (nowMs?: number) => Command["command"][] } => {
  const drive = new Drive(...nodes);
  const volatile = new FakeVolatile();
  let next = 900;
  return {
    drive,
    volatile,
    round: (nowMs = 1_000) =>
      reconcile(drive.cluster, volatile, {
        leaseMs: 15_000,
        nowMs,
        newId: () => idOf((next += 1)),
        newKey: () => Buffer.alloc(32, 1),
      }).map((one) => one.command),
  };
};

describe("leases", () => {
  test("one that ran out is a lost node, once; a report of a lost node brings it back", () => {
    const { drive, round, volatile } = setup("n1", "n2");
    volatile.leases.set("n1", 1_000);
    const lost = {
      $case: "nodeStateChanged",
      value: { node: "n1", state: NodeState.LOST, reason: "no report for 15 s" },
    };
    expect(round(999)).toEqual([]);
    expect(round(1_000)).toEqual([lost]);
    drive.must({ command: lost as NonNullable<Command["command"]> });
    expect(round(2_000)).toEqual([]);
    volatile.leases.set("n1", 9_000);
    expect(round(2_000)).toEqual([]);
    volatile.report("n1", []);
    expect(round(2_000)).toEqual([
      { $case: "nodeStateChanged", value: { node: "n1", state: NodeState.READY, reason: "" } },
    ]);
  });
});

describe("observations", () => {
  const seen = (rest: object): object => ({
    containerId: idOf(1),
    epoch: 1,
    state: AllocationState.RUNNING,
    ...rest,
  });

  test("only a change is recorded, of the owner's present epoch, from a fresh report", () => {
    const { drive, round, volatile } = setup("n1", "n2");
    drive.run(1, "web", "n1");
    for (const one of [
      seen({}),
      seen({ memoryBytes: 5 }),
      seen({ epoch: 2, state: AllocationState.EXITED }),
      seen({ state: AllocationState.UNSPECIFIED }),
      seen({ containerId: idOf(5) }),
    ]) {
      volatile.report("n1", [one]);
      expect(round()).toEqual([]);
    }
    volatile.report("n2", [seen({ state: AllocationState.EXITED })]);
    expect(round()).toEqual([]);
    volatile.report("n1", [seen({ restarts: 1, message: "x".repeat(5_000) })]);
    expect(round()).toMatchObject([
      { $case: "allocationObserved", value: { restarts: 1, message: "x".repeat(1024) } },
    ]);
    volatile.fresh.clear();
    expect(round()).toEqual([]);
  });

  test("the freeze of a migration is not recorded, nor its echo after an abort", () => {
    const { drive, round, volatile } = setup("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    volatile.report("n1", [seen({ state: AllocationState.FROZEN })]);
    expect(round()).toEqual([]);
    drive.must(command("migrationAborted", { id: idOf(7), reason: "" }));
    volatile.report("n1", [seen({ state: AllocationState.FROZEN })], false);
    expect(round()).toEqual([]);
    volatile.report("n1", [seen({ state: AllocationState.FROZEN })], true);
    expect(round()).toHaveLength(1);
  });

  test("what a move has brought to a host that stands still is not recorded as running until it can", () => {
    const { drive, round, volatile } = setup("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    drive.must(command("migrationSwitched", { id: idOf(7) }));
    const restored = seen({ epoch: 2 });
    volatile.report("n2", [restored], true, { fenceClosed: true });
    expect(round()).toEqual([]);
    volatile.report("n2", [restored]);
    expect(round()).toMatchObject([
      { $case: "allocationObserved", value: { state: AllocationState.RUNNING } },
    ]);
    drive.observe(1, AllocationState.RUNNING);
    // It has run there: that the host stands still now takes nothing back.
    volatile.report("n2", [seen({ epoch: 2, restarts: 1 })], true, { fenceClosed: true });
    expect(round()).toHaveLength(1);
  });
});

describe("removal", () => {
  const REMOVED = [{ $case: "containerRemoved", value: { id: idOf(1) } }];
  const removing = (force = true): ReturnType<typeof setup> => {
    const all = setup("n1", "n2");
    all.drive.run(1, "web", "n1");
    all.drive.must(command("containerRemoveRequested", { id: idOf(1), force }));
    return all;
  };

  test("forgotten once an up-to-date report does not list it", () => {
    const { round, volatile } = removing();
    expect(round()).toEqual([]);
    volatile.report("n1", [], false);
    expect(round()).toEqual([]);
    volatile.report("n1", [{ containerId: idOf(1), epoch: 1, state: AllocationState.RUNNING }]);
    expect(round()).toEqual([]);
    volatile.report("n1", []);
    expect(round()).toEqual(REMOVED);
  });

  test("on a lost node only by force", () => {
    for (const force of [true, false]) {
      const { drive, round } = setup("n1");
      drive.run(1, "web", "n1");
      drive.observe(1, AllocationState.EXITED);
      drive.must(command("containerRemoveRequested", { id: idOf(1), force }));
      drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
      expect(round()).toEqual(force ? REMOVED : []);
    }
  });

  test("at once when it was never placed", () => {
    const { drive, round } = setup();
    drive.create(1, "web");
    drive.must(command("containerRemoveRequested", { id: idOf(1), force: false }));
    expect(round()).toEqual(REMOVED);
  });

  test("right after a switch both hosts have to be rid of it", () => {
    const { drive, round, volatile } = setup("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    drive.must(command("migrationSwitched", { id: idOf(7) }));
    drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
    volatile.report("n2", []);
    expect(round()).toEqual([]);
    volatile.report("n1", []);
    expect(round()).toEqual(REMOVED);
  });
});

describe("a container that is stopped before it was started", () => {
  test("has ended once its node has read that, and holds up no drain", () => {
    const { drive, round, volatile } = setup("n1", "n2");
    drive.create(1, "web");
    drive.place(1, "n1");
    drive.must(
      command("containerDesiredSet", { id: idOf(1), desired: DesiredState.STOPPED, restartGeneration: 0 }),
    );
    volatile.report("n1", [], false);
    volatile.reopen("n1", idOf(1));
    expect(round()).toEqual([]);
    volatile.report("n1", []);
    expect(round()).toMatchObject([
      { $case: "allocationObserved", value: { containerId: idOf(1), state: AllocationState.EXITED } },
    ]);
  });
});

test("a container that is to be stopped, on a host that has come back with another disk, has ended", () => {
  const { drive, round, volatile } = setup("n1", "n2");
  drive.run(1, "web", "n1");
  volatile.report("n1", []);
  expect(round()).toEqual([]);
  drive.must(
    command("containerDesiredSet", { id: idOf(1), desired: DesiredState.STOPPED, restartGeneration: 0 }),
  );
  volatile.report("n1", []);
  volatile.reopen("n1", idOf(1));
  expect(round()).toMatchObject([
    {
      $case: "allocationObserved",
      value: { containerId: idOf(1), state: AllocationState.EXITED, message: /nothing of it is left/ },
    },
  ]);
});

describe("placement", () => {
  test("pending containers are spread in one round, and a failure is recorded once", () => {
    const { drive, round } = setup("n1", "n2");
    for (const number of [1, 2, 3]) drive.create(number, `c${number}`, memoryLimit(700));
    const planned = round();
    expect(planned).toMatchObject([
      { $case: "allocationPlaced", value: { containerId: idOf(1), node: "n1", epoch: 1 } },
      { $case: "allocationPlaced", value: { containerId: idOf(2), node: "n2", epoch: 1 } },
      {
        $case: "allocationObserved",
        value: { containerId: idOf(3), node: "", message: /^no node fits: 2 of 2 lack/ },
      },
    ]);
    for (const one of planned) drive.must({ command: one });
    expect(drive.container(3).placementFailure).toMatch(/lack/);
    expect(round()).toEqual([]);
  });

  test("a pin holds for the first placement", () => {
    const { drive, round } = setup("n1", "n2", "n3");
    drive.create(1, "web", { node: "n3" });
    expect(round()).toMatchObject([{ value: { node: "n3", epoch: 1 } }]);
    drive.place(1, "n3");
    drive.must(command("nodeStateChanged", { node: "n3", state: NodeState.LOST, reason: "" }));
    drive.must(command("nodeRemoved", { node: "n3" }));
    expect(round()).toMatchObject([{ $case: "allocationPlaced", value: { node: "n1", epoch: 2 } }]);
  });
});

describe("drain", () => {
  const drain = (
    drive: Drive,
    rest: { parallel?: number; deadlineMs?: number; force?: boolean } = {},
  ): void =>
    drive.must(
      command("drainStarted", {
        node: "n1",
        drainId: "d1",
        deadlineMs: 0,
        parallel: 1,
        force: false,
        ...rest,
      }),
    );

  test("as many at a time as asked for, with the room that each takes", () => {
    const { drive, round } = setup("n1", "n2");
    for (const number of [1, 2, 3, 4]) drive.run(number, `c${number}`, "n1");
    drain(drive, { parallel: 2 });
    const first = round();
    expect(first).toMatchObject([
      {
        $case: "migrationStarted",
        value: { containerId: idOf(1), from: "n1", to: "n2", epoch: 2, drainId: "d1", reason: "drain" },
      },
      { $case: "migrationStarted", value: { containerId: idOf(2) } },
    ]);
    for (const one of first) drive.must({ command: one });
    expect(round()).toEqual([]);
    drive.must(command("migrationSwitched", { id: idOf(901) }));
    expect(round()).toEqual([]);
    drive.must(command("migrationFinished", { id: idOf(901), figures: undefined }));
    expect(round()).toMatchObject([{ value: { containerId: idOf(3) } }]);
  });

  test("a target that failed is avoided as long as another one fits", () => {
    const { drive, round, volatile } = setup("n1", "n2", "n3");
    drive.run(1, "web", "n1");
    drain(drive);
    const targets: string[] = [];
    for (let attempt = 0; attempt < 3; attempt += 1) {
      const [started] = round();
      if (started?.$case !== "migrationStarted") throw new Error("no migration");
      targets.push(started.value.to);
      drive.must({ command: started });
      volatile.migration(started.value.id, "target", MigrationPhase.FAILED, { error: "no" });
      for (const one of round()) drive.must({ command: one });
    }
    expect(targets).toEqual(["n2", "n3", "n2"]);
    expect(round()).toEqual([
      {
        $case: "drainEnded",
        value: {
          node: "n1",
          drainId: "d1",
          outcome: "failed: cannot be moved: web (failed to move 3 times, last: the target n2 failed: no)",
        },
      },
    ]);
  });

  test("an operator's cancel is not overruled", () => {
    const { drive, round } = setup("n1", "n2");
    drive.run(1, "web", "n1");
    drain(drive);
    for (const one of round()) drive.must({ command: one });
    drive.must(command("migrationCancelRequested", { id: idOf(901) }));
    for (const one of round()) drive.must({ command: one });
    expect(round()).toMatchObject([{ $case: "drainEnded", value: { outcome: /its move was cancelled/ } }]);
  });

  test("an empty node is drained at once; the deadline ends it in any case", () => {
    const empty = setup("n1", "n2");
    drain(empty.drive);
    expect(empty.round()).toMatchObject([{ value: { outcome: "drained" } }]);
    const late = setup("n1", "n2");
    late.drive.create(1, "web", {});
    late.drive.place(1, "n1");
    drain(late.drive, { deadlineMs: 5_000 });
    expect(late.round(4_999)).toEqual([]);
    expect(late.round(5_000)).toMatchObject([{ value: { outcome: /^failed: the deadline passed/ } }]);
  });

  test.each<[string, (drive: Drive) => void, "failed" | "waiting" | "staying" | "departures", RegExp]>([
    ["runs", () => undefined, "departures", /^$/],
    ["starting", (d) => d.observe(1, AllocationState.STARTING), "waiting", /is starting/],
    ["restarting", (d) => d.observe(1, AllocationState.EXITED, 1), "waiting", /is being restarted/],
    ["failing", (d) => d.observe(1, AllocationState.FAILED), "failed", /does not run \(no reason given\)/],
    [
      "stopping",
      (d) =>
        d.must(
          command("containerDesiredSet", {
            id: idOf(1),
            desired: DesiredState.STOPPED,
            restartGeneration: 0,
          }),
        ),
      "waiting",
      /is being stopped/,
    ],
    [
      "stopped",
      (d) => {
        d.must(
          command("containerDesiredSet", {
            id: idOf(1),
            desired: DesiredState.STOPPED,
            restartGeneration: 0,
          }),
        );
        d.observe(1, AllocationState.EXITED, 143);
      },
      "staying",
      /^stopped: stays on its node/,
    ],
    [
      "removing",
      (d) => d.must(command("containerRemoveRequested", { id: idOf(1), force: true })),
      "waiting",
      /is being removed/,
    ],
    [
      "lost",
      (d) => d.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" })),
      "waiting",
      /its node is lost/,
    ],
  ])("a container that is %s", (_, happen, where, reason) => {
    const { drive } = setup("n1", "n2");
    drive.run(1, "web", "n1");
    happen(drive);
    const view = viewDrain(drive.cluster, UNSEEN, "n1", { nowMs: 0 });
    const all = [...view.failed, ...view.waiting, ...view.staying, ...view.departures];
    expect(all).toHaveLength(1);
    expect(view[where]).toHaveLength(1);
    const [one] = all;
    expect(one !== undefined && "reason" in one ? one.reason : "").toMatch(reason);
  });

  test("restart and migration policies count, unless forced", () => {
    const { drive } = setup("n1", "n2");
    drive.run(1, "once", "n1", { restart: RestartPolicy.NEVER });
    drive.observe(1, AllocationState.EXITED, 1);
    drive.run(2, "fine", "n1", { restart: RestartPolicy.ON_FAILURE });
    drive.observe(2, AllocationState.EXITED, 0);
    drive.run(3, "cold", "n1", { migration: MigrationPolicy.COLD });
    drive.run(4, "never", "n1", { migration: MigrationPolicy.NEVER });
    const view = viewDrain(drive.cluster, UNSEEN, "n1", { nowMs: 0 });
    expect(view.staying.map((item) => item.container)).toEqual(["fine", "once"]);
    expect(view.failed.map((item) => item.container)).toEqual(["never"]);
    expect(view.departures.map(({ container }) => container.spec?.name)).toEqual(["cold"]);
    drain(drive, { force: true, parallel: 5 });
    const forced = viewDrain(drive.cluster, UNSEEN, "n1", {
      drain: drive.cluster.state.nodes["n1"]?.drain,
      nowMs: 0,
    });
    expect(forced.departures.map(({ container }) => container.spec?.name)).toEqual(["cold", "never"]);
  });
});
