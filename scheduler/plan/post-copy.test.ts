import { describe, expect, test } from "vitest";
import { MigrationPhase, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, MigrationState, NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { command } from "./command.ts";
import { desiredFor } from "./desired.ts";
import { viewDrain } from "./drain.ts";
import { happeningsOf } from "./events.ts";
import { planMigrations, RELEASE_SILENCE_MS } from "./migrations.ts";
import { standstillOf } from "./standstill.ts";

const ID = idOf(7);

/** Container 1, which runs at n2 and has not all of its memory from n1 yet. */
class Filling {
  readonly drive = new Drive("n1", "n2", "n3");
  readonly volatile = new FakeVolatile();

  constructor() {
    this.drive.run(1, "web", "n1");
    this.drive.startMove(7, 1, "n2", "", MigrationMode.POSTCOPY);
    this.drive.must(command("migrationSwitched", { id: ID }));
    this.source(AllocationState.FROZEN);
    this.volatile.migration(ID, "source", MigrationPhase.DUMPED);
    this.target(AllocationState.RUNNING, MigrationPhase.FILLING);
    this.drive.observe(1, AllocationState.RUNNING);
  }
  source(state: AllocationState, current = true): void {
    this.volatile.report("n1", [{ containerId: idOf(1), epoch: 1, state }], current);
  }
  target(state: AllocationState, phase: MigrationPhase, pageSession = 0): void {
    this.volatile.report("n2", [{ containerId: idOf(1), epoch: 2, state }]);
    this.volatile.migration(ID, "target", phase, { pageSession });
  }
  node(node: string, state: NodeState): void {
    this.drive.must(command("nodeStateChanged", { node, state, reason: "silent" }));
  }
  plan(nowMs = 1_000_000_000): Command["command"][] {
    return planMigrations(this.drive.cluster, this.volatile, nowMs).map((one) => one.command);
  }
  roleOn(node: string): { role: Role; pageSession: number } | undefined {
    const [one] = desiredFor(this.drive.cluster, this.volatile, node)?.allocations ?? [];
    return one === undefined ? undefined : { role: one.role, pageSession: one.migration?.pageSession ?? 0 };
  }
  standstill(): string | undefined {
    const migration = this.drive.cluster.state.migrations[ID];
    return migration === undefined ? undefined : standstillOf(this.drive.cluster, this.volatile, migration);
  }
}

const LOST = (reason: RegExp): unknown => [
  {
    $case: "migrationLost",
    value: expect.objectContaining({ id: ID, reason: expect.stringMatching(reason) as unknown }) as unknown,
  },
];

describe("while memory follows", () => {
  test("the source keeps its frozen copy, and the move is not over, however long that takes", () => {
    const all = new Filling();
    expect(all.roleOn("n1")).toEqual({ role: Role.SOURCE, pageSession: 0 });
    expect(all.roleOn("n2")).toMatchObject({ role: Role.OWNER });
    expect(all.plan()).toEqual([]);
    expect(all.plan(1_000_000_000 + RELEASE_SILENCE_MS)).toEqual([]);
    expect(viewDrain(all.drive.cluster, all.volatile, "n1", { nowMs: 0 }).moving).toHaveLength(1);
  });

  test("a source is told in which session the target asks", () => {
    const all = new Filling();
    all.target(AllocationState.RUNNING, MigrationPhase.FILLING, 77);
    expect(all.roleOn("n1")).toEqual({ role: Role.SOURCE, pageSession: 77 });
    expect(all.roleOn("n2")).toMatchObject({ pageSession: 0 });
  });

  test("a new leader that has not heard of the target ends nothing", () => {
    const all = new Filling();
    all.volatile.migrations.clear();
    expect(all.roleOn("n1")).toMatchObject({ role: Role.SOURCE });
    expect(all.plan()).toEqual([]);
  });

  test("it cannot be cancelled", () => {
    const all = new Filling();
    expect(all.drive.try(command("migrationCancelRequested", { id: ID }))?.message).toMatch(
      /already belongs to the target/,
    );
  });

  test("when all of it is there the source lets go, and then the move is over", () => {
    const all = new Filling();
    all.target(AllocationState.RUNNING, MigrationPhase.RUNNING);
    expect(all.roleOn("n1")).toMatchObject({ role: Role.RELEASED });
    expect(all.plan()).toEqual([]);
    all.volatile.migration(ID, "source", MigrationPhase.RELEASED);
    expect(all.plan()).toMatchObject([{ $case: "migrationFinished" }]);
  });

  test("a container that ends needs no more of it", () => {
    const all = new Filling();
    all.target(AllocationState.EXITED, MigrationPhase.FILLING);
    expect(all.roleOn("n1")).toMatchObject({ role: Role.RELEASED });
  });
});

describe("a source that is gone", () => {
  test("is waited for as long as nobody says that it is gone for good", () => {
    const all = new Filling();
    all.node("n1", NodeState.LOST);
    all.source(AllocationState.EXITED);
    expect(all.plan()).toEqual([]);
    expect(all.standstill()).toMatch(
      /n1 was lost \(silent\).*it waits.*"godwit node rm --is-off n1" ends web/,
    );
    all.target(AllocationState.RUNNING, MigrationPhase.RUNNING);
    expect(all.plan()).toMatchObject([{ $case: "migrationFinished" }]);
  });

  test.each<[string, (all: Filling) => void, RegExp]>([
    ["whose processes have ended", (all) => all.source(AllocationState.EXITED), /frozen processes .* ended/],
    ["that has nothing of it any more", (all) => all.volatile.report("n1", []), /its copy there is gone/],
    [
      "that cannot read it",
      (all) =>
        all.volatile.migration(ID, "source", MigrationPhase.FAILED, {
          error: "page 1000 is not there",
          errorCode: "not-found",
        }),
      /page 1000 is not there/,
    ],
  ])("%s costs the container", (_, happen, reason) => {
    const all = new Filling();
    happen(all);
    expect(all.plan()).toEqual(LOST(reason));
    const [lost] = planMigrations(all.drive.cluster, all.volatile, 0);
    if (lost === undefined) throw new Error("nothing is planned");
    expect(happeningsOf(all.drive.cluster, lost)).toMatchObject([
      {
        kind: "migration.lost",
        subject: "web",
        message: expect.stringMatching(/cannot go on at n2/) as unknown,
      },
    ]);
    all.drive.must(lost);
    expect(all.drive.cluster.state.migrations[ID]).toMatchObject({ state: MigrationState.LOST });
    // The target's agent knows by this that nothing will come.
    expect(desiredFor(all.drive.cluster, all.volatile, "n2")?.allocations).toMatchObject([
      { role: Role.OWNER, epoch: 2, migration: undefined },
    ]);
    expect(desiredFor(all.drive.cluster, all.volatile, "n1")?.allocations).toEqual([]);
  });

  test.each<[string, (all: Filling) => void]>([
    ["has not taken in its orders yet", (all) => all.volatile.report("n1", [], false)],
    [
      "failed before the switch was known to it",
      (all) =>
        all.volatile.migration(ID, "source", MigrationPhase.FAILED, {
          error: "the source's agent restarted during the move",
          errorCode: "unavailable",
        }),
    ],
    ["is about to freeze", (all) => all.source(AllocationState.RUNNING)],
  ])("one that %s has lost nothing", (_, happen) => {
    const all = new Filling();
    happen(all);
    expect(all.plan()).toEqual([]);
  });

  test("is no loss to a container that is being removed: both hosts have been told to", () => {
    const all = new Filling();
    all.drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
    all.volatile.report("n1", []);
    expect(all.plan()).toEqual([]);
  });

  test("that its fence has stopped is waited for, too: its frozen copy is as good as before", () => {
    const all = new Filling();
    all.drive.must(command("nodeFenceSet", { node: "n1", fenceMs: 10_000, fault: "" }));
    all.node("n1", NodeState.LOST);
    all.drive.must(command("nodeFenced", { node: "n1" }));
    expect(all.drive.cluster.state.migrations[ID]).toMatchObject({ state: MigrationState.SWITCHED });
    all.node("n1", NodeState.READY);
    expect(all.roleOn("n1")).toMatchObject({ role: Role.SOURCE });
    expect(all.plan()).toEqual([]);
  });

  test("whose removal is the operator's word for it", () => {
    const all = new Filling();
    all.node("n1", NodeState.LOST);
    const removed = command("nodeRemoved", { node: "n1" });
    expect(happeningsOf(all.drive.cluster, removed)).toMatchObject([
      { kind: "node.removed" },
      { kind: "migration.lost", subject: "web" },
    ]);
    all.drive.must(removed);
    expect(all.drive.cluster.state.migrations[ID]).toMatchObject({
      state: MigrationState.LOST,
      error: "node n1 was removed, and with it memory that had not followed",
    });
    expect(all.drive.container(1)).toMatchObject({ migrationId: "", allocation: { node: "n2", epoch: 2 } });
  });
});

test("only a move that has been switched can lose memory", () => {
  const drive = new Drive("n1", "n2");
  drive.run(1, "web", "n1");
  drive.startMove(7, 1, "n2");
  const lost = command("migrationLost", { id: ID, reason: "gone", figures: undefined });
  expect(drive.try(lost)?.message).toMatch(/no memory left to lose/);
  drive.must(command("migrationSwitched", { id: ID }));
  drive.must(lost);
  expect(drive.try(lost)?.message).toMatch(/no memory left to lose/);
});
