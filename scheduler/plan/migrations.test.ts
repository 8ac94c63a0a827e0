import { describe, expect, test } from "vitest";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import {
  AllocationState,
  DesiredState,
  NodeState,
  type Command,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationForecast } from "../../proto/gen/godwit/v1/spec.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { command } from "./command.ts";
import { standstillOf } from "./standstill.ts";
import { planMigrations, PROGRESS_LIMIT_MS, READY_LIMIT_MS, RELEASE_SILENCE_MS } from "./migrations.ts";

const ID = idOf(7);

/** Container 1 on its way from n1 to n2, since time 1000. */
const moving = (): {
  drive: Drive;
  volatile: FakeVolatile;
  plan: (nowMs?: number) => Command["command"][];
} => {
  const drive = new Drive("n1", "n2");
  drive.run(1, "web", "n1");
  drive.startMove(7, 1, "n2");
  const volatile = new FakeVolatile();
  return {
    drive,
    volatile,
    plan: (nowMs = 1_000) => planMigrations(drive.cluster, volatile, nowMs).map((one) => one.command),
  };
};
const switched = (): ReturnType<typeof moving> => {
  const all = moving();
  all.drive.must(command("migrationSwitched", { id: ID }));
  return all;
};
const aborted = (reason: string | RegExp): unknown => [
  {
    $case: "migrationAborted",
    value: { id: ID, reason: typeof reason === "string" ? reason : expect.stringMatching(reason) },
  },
];
const SWITCH = [{ $case: "migrationSwitched", value: { id: ID } }];
const FINISH = [{ $case: "migrationFinished", value: expect.objectContaining({ id: ID }) as unknown }];

describe("before the switch", () => {
  test("nothing to do while both sides work; RESTORED at the target is the word to switch", () => {
    const { plan, volatile } = moving();
    expect(plan()).toEqual([]);
    for (const phase of [MigrationPhase.PREPARING, MigrationPhase.READY, MigrationPhase.RECEIVING]) {
      volatile.migration(ID, "target", phase);
      expect(plan()).toEqual([]);
    }
    volatile.migration(ID, "source", MigrationPhase.DUMPED);
    expect(plan()).toEqual([]);
    volatile.migration(ID, "target", MigrationPhase.RESTORED);
    expect(plan()).toEqual(SWITCH);
  });

  test("copying is allowed once the target was ready, and a new leader learns it from the source as well", () => {
    const { volatile } = moving();
    const copy = (): boolean | undefined => volatile.migrations.get(ID)?.copy;
    volatile.migration(ID, "target", MigrationPhase.PREPARING);
    expect(copy()).toBe(false);
    volatile.migration(ID, "target", MigrationPhase.READY);
    expect(copy()).toBe(true);
    volatile.migration(ID, "target", MigrationPhase.FAILED);
    expect(copy()).toBe(true);
    const later = new FakeVolatile();
    later.migration(ID, "source", MigrationPhase.FROZEN);
    expect(later.migrations.get(ID)?.copy).toBe(true);
  });

  test.each<[string, (all: ReturnType<typeof moving>) => void, string | RegExp]>([
    ["cancelled", ({ drive }) => drive.must(command("migrationCancelRequested", { id: ID })), "cancelled"],
    [
      "target lost",
      ({ drive }) =>
        drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "silent" })),
      "node n2 was lost (silent)",
    ],
    [
      "source lost",
      ({ drive }) =>
        drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "silent" })),
      "node n1 was lost (silent)",
    ],
    [
      "target failed",
      ({ volatile }) => volatile.migration(ID, "target", MigrationPhase.FAILED, { error: "no room" }),
      "the target n2 failed: no room",
    ],
    [
      "source failed",
      ({ volatile }) => volatile.migration(ID, "source", MigrationPhase.FAILED),
      "the source n1 failed: it gave no reason",
    ],
    [
      "target gave up",
      ({ volatile }) => volatile.migration(ID, "target", MigrationPhase.ABORTED),
      /^the target n2 gave up/,
    ],
    [
      "exited",
      ({ volatile }) =>
        volatile.report("n1", [
          { containerId: idOf(1), epoch: 1, state: AllocationState.EXITED, exitCode: 2 },
        ]),
      "the container exited with code 2 during the move",
    ],
  ])("aborts even at the last moment: %s", (_, happen, reason) => {
    const all = moving();
    all.volatile.migration(ID, "target", MigrationPhase.RESTORED);
    happen(all);
    expect(all.plan()).toEqual(aborted(reason));
  });

  test("a refusal is told from a failure, with the forecast, and attributed to who refused", () => {
    const { plan, volatile } = moving();
    const forecast = MigrationForecast.fromPartial({ blackoutMs: 900, totalMs: Number.NaN });
    volatile.migration(ID, "source", MigrationPhase.COPYING, { forecast });
    const refusal = { error: "the source refused: too slow", errorCode: "refused" };
    volatile.migration(ID, "target", MigrationPhase.FAILED, refusal);
    const value = {
      id: ID,
      reason: refusal.error,
      errorCode: "refused",
      predicted: { ...forecast, totalMs: 0 },
    };
    expect(plan()).toEqual([{ $case: "migrationAborted", value }]);
    volatile.migration(ID, "source", MigrationPhase.FAILED, { error: "too slow", errorCode: "refused" });
    expect(plan()).toMatchObject([
      { value: { reason: "the source n1 refused: too slow", errorCode: "refused" } },
    ]);
  });

  test("what an old epoch's copy does is of no interest", () => {
    const { plan, volatile } = moving();
    volatile.report("n1", [{ containerId: idOf(1), epoch: 9, state: AllocationState.EXITED }]);
    expect(plan()).toEqual([]);
  });

  test("a target that is not ready in time, counted from the leader's begin at the earliest", () => {
    const { plan, volatile } = moving();
    volatile.migration(ID, "target", MigrationPhase.PREPARING, { nowMs: 2_000 });
    expect(plan(1_000 + READY_LIMIT_MS)).toEqual([]);
    expect(plan(1_001 + READY_LIMIT_MS)).toEqual(aborted("the target n2 was not ready within 60 s"));
    volatile.leaderSinceMs = 50_000;
    expect(plan(1_001 + READY_LIMIT_MS)).toEqual([]);
    expect(plan(50_001 + READY_LIMIT_MS)).toHaveLength(1);
  });

  test("bytes are progress, and so is a new phase; without either it ends", () => {
    const { plan, volatile } = moving();
    volatile.migration(ID, "target", MigrationPhase.READY, { nowMs: 2_000 });
    volatile.migration(ID, "source", MigrationPhase.COPYING, { nowMs: 10_000, bytesDone: 10 });
    volatile.migration(ID, "source", MigrationPhase.COPYING, { nowMs: 100_000, bytesDone: 11 });
    volatile.migration(ID, "source", MigrationPhase.COPYING, { nowMs: 200_000, bytesDone: 11 });
    expect(plan(100_000 + PROGRESS_LIMIT_MS)).toEqual([]);
    expect(plan(100_001 + PROGRESS_LIMIT_MS)).toEqual(aborted("no progress for 120 s"));
    volatile.migration(ID, "source", MigrationPhase.FROZEN, { nowMs: 210_000, bytesDone: 11 });
    expect(plan(100_001 + PROGRESS_LIMIT_MS)).toEqual([]);
  });
});

describe("after the switch", () => {
  test("it ends when the target runs and the source is empty, in any order, and never by an abort", () => {
    const { drive, plan, volatile } = switched();
    volatile.migration(ID, "target", MigrationPhase.RUNNING);
    expect(plan(10_000_000)).toEqual([]);
    drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "" }));
    volatile.migration(ID, "source", MigrationPhase.FAILED, { error: "cannot unmount" });
    expect(plan()).toEqual([]);
    volatile.migration(ID, "source", MigrationPhase.RELEASED);
    expect(plan()).toEqual(FINISH);
  });

  test("a source that is lost does not hold it up", () => {
    const { drive, plan, volatile } = switched();
    drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
    expect(plan()).toEqual([]);
    volatile.migration(ID, "target", MigrationPhase.RUNNING);
    expect(plan()).toEqual(FINISH);
  });

  test("a source that forgot the migration is believed when it is up to date, lists nothing and some time has passed", () => {
    const { plan, volatile } = switched();
    volatile.migration(ID, "target", MigrationPhase.RUNNING);
    const late = 1_001 + RELEASE_SILENCE_MS;
    volatile.report("n1", [{ containerId: idOf(1), epoch: 1, state: AllocationState.FROZEN }]);
    expect(plan(late)).toEqual([]);
    volatile.report("n1", [], false);
    expect(plan(late)).toEqual([]);
    volatile.report("n1", []);
    expect(plan(2_000)).toEqual([]);
    expect(plan(late)).toEqual(FINISH);
  });

  test.each<[string, (volatile: FakeVolatile) => void, boolean, number?]>([
    ["restored and not running yet", (v) => v.migration(ID, "target", MigrationPhase.RESTORED), false],
    [
      "running, by its account of the migration",
      (v) => v.migration(ID, "target", MigrationPhase.RUNNING),
      true,
    ],
    [
      "running, with the migration forgotten",
      (v) => v.report("n2", [{ containerId: idOf(1), epoch: 2, state: AllocationState.RUNNING }]),
      true,
    ],
    [
      "running in an old epoch",
      (v) => v.report("n2", [{ containerId: idOf(1), epoch: 1, state: AllocationState.RUNNING }]),
      false,
    ],
    [
      "exited at once",
      (v) => v.report("n2", [{ containerId: idOf(1), epoch: 2, state: AllocationState.EXITED }]),
      true,
    ],
    [
      "failed to resume, and started afresh",
      (v) => {
        v.migration(ID, "target", MigrationPhase.FAILED);
        v.report("n2", [{ containerId: idOf(1), epoch: 2, state: AllocationState.RUNNING }]);
      },
      true,
    ],
    [
      "running, its account stuck for long",
      (v) => {
        v.migration(ID, "target", MigrationPhase.RESTORED);
        v.report("n2", [{ containerId: idOf(1), epoch: 2, state: AllocationState.RUNNING }]);
      },
      true,
      1_001 + RELEASE_SILENCE_MS,
    ],
  ])("the target is %s", (_, happen, done, nowMs = 1_000) => {
    const { plan, volatile } = switched();
    volatile.migration(ID, "source", MigrationPhase.RELEASED);
    happen(volatile);
    expect(plan(nowMs)).toEqual(done ? FINISH : []);
  });

  test("figures: each side's own, the blackout and the total derived where nobody gave them", () => {
    const { drive, plan, volatile } = switched();
    const figuresAt = (nowMs: number): Migration["figures"] => {
      const [one] = plan(nowMs);
      return one?.$case === "migrationFinished" ? one.value.figures : undefined;
    };
    volatile.migration(ID, "source", MigrationPhase.RELEASED, {
      figures: { freezeMs: 2, dumpMs: 50, memoryBytes: 9, sentBytes: 5, rounds: 1 },
    });
    volatile.migration(ID, "target", MigrationPhase.RUNNING, {
      figures: { transferMs: 3, restoreMs: 40, resumeMs: 5, memoryBytes: 8 },
    });
    expect(figuresAt(1_900)).toEqual({
      rounds: 1,
      freezeMs: 2,
      dumpMs: 50,
      transferMs: 3,
      restoreMs: 40,
      resumeMs: 5,
      blackoutMs: 100,
      totalMs: 900,
      memoryBytes: 9,
      sentBytes: 5,
      filesystemBytes: 0,
      reusedBytes: 0,
    });
    volatile.migration(ID, "source", MigrationPhase.RELEASED, { figures: { dumpMs: 50, blackoutMs: 60 } });
    volatile.migration(ID, "target", MigrationPhase.RUNNING, { figures: { blackoutMs: 17, totalMs: 800 } });
    expect(figuresAt(1_900)).toMatchObject({ blackoutMs: 77, totalMs: 800, dumpMs: 50 });
    volatile.migration(ID, "target", MigrationPhase.RUNNING, { figures: { restoreMs: NaN, resumeMs: -1 } });
    expect(figuresAt(1_900)).toMatchObject({ restoreMs: 0, resumeMs: 0, dumpMs: 50 });
    expect(drive.container(1).allocation?.node).toBe("n2");
  });
});

describe("what stands still after the switch", () => {
  const told = ({ drive, volatile }: ReturnType<typeof moving>): string | undefined => {
    const migration = drive.cluster.state.migrations[ID];
    return migration === undefined ? undefined : standstillOf(drive.cluster, volatile, migration);
  };
  const lose = ({ drive }: ReturnType<typeof moving>, node: string): void =>
    drive.must(command("nodeStateChanged", { node, state: NodeState.LOST, reason: "silent" }));

  test("nothing, as long as the target is there", () => {
    const all = switched();
    expect(told(all)).toBeUndefined();
    lose(all, "n1");
    expect(told(all)).toBeUndefined();
  });

  test("a lost target: what is not known, who has the copy, and what to do", () => {
    const all = switched();
    lose(all, "n2");
    expect(told(all)).toMatch(/n2 was lost \(silent\).*n1 keeps the copy.*"godwit node rm --is-off n2"/);
    lose(all, "n1");
    expect(told(all)).toMatch(/node n1 was lost \(silent\) too/);
  });

  test("a lost target that has run it", () => {
    const all = switched();
    all.volatile.migration(ID, "target", MigrationPhase.RUNNING);
    lose(all, "n2");
    expect(told(all)).toMatch(/it ran there: it goes on when n2 is back$/);
  });

  test("given back to a source that is lost", () => {
    const all = switched();
    all.volatile.migration(ID, "target", MigrationPhase.GIVEN_UP);
    lose(all, "n1");
    expect(told(all)).toMatch(/n2 could not restore web .* n1 was lost/);
  });

  test("an aborted move has its reason in the log", () => {
    const all = moving();
    lose(all, "n2");
    expect(told(all)).toBeUndefined();
  });
});

test("a failure of the source's that is heard from the target first is the source's", () => {
  const { plan, volatile } = moving();
  const error = "the source gave up: the container ended during the move";
  volatile.migration(ID, "target", MigrationPhase.FAILED, { error });
  expect(plan()).toEqual(aborted("the source n1 failed: the container ended during the move"));
});

test("that the container has ended explains every other failure", () => {
  const { plan, volatile } = moving();
  volatile.migration(ID, "target", MigrationPhase.FAILED, { error: "the source gave up" });
  volatile.report("n1", [{ containerId: idOf(1), epoch: 1, state: AllocationState.EXITED, exitCode: 7 }]);
  expect(plan()).toEqual(aborted("the container exited with code 7 during the move"));
});

test("a target that has given up after the switch: the source has its copy back, once it answers", () => {
  const { drive, plan, volatile } = switched();
  volatile.migration(ID, "target", MigrationPhase.GIVEN_UP);
  drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "silent" }));
  expect(plan()).toEqual([]);
  drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.READY, reason: "" }));
  expect(plan()).toEqual([
    {
      $case: "migrationReturned",
      value: { id: ID, reason: expect.stringMatching(/n2 could not/) as unknown },
    },
  ]);
});

describe("a target that has nothing of it any more after the switch, for its disk is another one", () => {
  const gone = (current = true): ReturnType<typeof moving> => {
    const all = switched();
    all.volatile.migration(ID, "target", MigrationPhase.RESTORED);
    all.volatile.report("n1", [{ containerId: idOf(1), epoch: 1, state: AllocationState.FROZEN }]);
    all.volatile.report("n2", [], current);
    return all;
  };
  const RETURN = [{ $case: "migrationReturned", value: { id: ID, reason: "nothing of it is left on n2" } }];

  test("the source has its copy back, once it answers", () => {
    const { drive, plan } = gone();
    drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "silent" }));
    expect(plan()).toEqual([]);
    drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.READY, reason: "" }));
    expect(plan()).toEqual(RETURN);
  });

  test("also one that is to be stopped: nobody would end the move otherwise", () => {
    const { drive, plan } = gone();
    drive.must(
      command("containerDesiredSet", { id: idOf(1), desired: DesiredState.STOPPED, restartGeneration: 0 }),
    );
    expect(plan()).toEqual(RETURN);
  });

  test("nothing is known of a target that has not read yet that the container is its own, or is lost", () => {
    expect(gone(false).plan()).toEqual([]);
    const { drive, plan } = gone();
    drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "silent" }));
    expect(plan()).toEqual([]);
  });

  test("it ran there, or the source was removed: nobody has it, and the log says so", () => {
    const lost = [
      {
        $case: "migrationLost",
        value: expect.objectContaining({ id: ID, reason: "nothing of it is left on n2" }) as unknown,
      },
    ];
    const ran = gone();
    ran.drive.observe(1, AllocationState.RUNNING);
    expect(ran.plan()).toEqual(lost);
    const alone = gone();
    alone.drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "silent" }));
    alone.drive.must(command("nodeRemoved", { node: "n1" }));
    expect(alone.plan()).toEqual(lost);
  });

  test("one that is being removed is no concern of its move", () => {
    const { drive, plan } = gone();
    drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
    expect(plan()).toEqual([]);
  });
});
