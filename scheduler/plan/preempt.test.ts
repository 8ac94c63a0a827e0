import * as fc from "fast-check";
import { expect, test } from "vitest";
import { AllocationState, NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationPolicy, PreemptionPolicy, type ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { priorityOf } from "../state/placement-index.ts";
import { anyRules } from "../testing/arbitrary-placement.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { memoryLimit } from "../testing/sample.ts";
import { command } from "./command.ts";
import { desiredFor } from "./desired.ts";
import { PlannedDisruptions } from "./disruption.ts";
import { planPlacements } from "./place.ts";
import { PlannedUse } from "./placement.ts";
import { viewPlacement } from "./placement/view.ts";
import { WaitingRoom } from "./placement/waiting-room.ts";
import { planPreemptions } from "./preempt.ts";

const { MOVE, NEVER, STOP } = PreemptionPolicy;

class Scene {
  readonly drive: Drive;
  readonly seen = new FakeVolatile();
  readonly room = new WaitingRoom();
  #id = 5_000;

  constructor(...nodes: string[]) {
    this.drive = new Drive(...nodes);
  }
  run(number: number, node: string, mib: number, spec: Partial<ContainerSpec> = {}): void {
    this.drive.run(number, `c${number}`, node, { ...memoryLimit(mib), ...spec });
  }
  /** What one round plans; it is applied. */
  round(): Command[] {
    const { cluster } = this.drive;
    this.drive.atMs += 2_000;
    const planned = new PlannedUse(cluster);
    const nowMs = this.drive.atMs;
    const newId = () => idOf((this.#id += 1));
    const { room } = this;
    const disruptions = new PlannedDisruptions(cluster);
    const commands = [
      ...planPlacements(cluster, this.seen, { planned, room, nowMs }),
      ...planPreemptions(cluster, this.seen, { planned, disruptions, room, newId, nowMs }),
    ];
    for (const one of commands) this.drive.must(one);
    return commands;
  }
  /** Kinds of commands, without those that only say why something waits. */
  kinds(): string[] {
    return this.round()
      .map(({ command: one }) => one?.$case ?? "")
      .filter((kind) => kind !== "allocationObserved");
  }
  nodeOf(number: number): string | undefined {
    return this.drive.container(number).allocation?.node;
  }
  finishMoves(): void {
    for (const id of this.drive.cluster.index.moving) {
      this.drive.must(command("migrationSwitched", { id }));
      const { containerId } = this.drive.cluster.state.migrations[id] ?? { containerId: "" };
      this.drive.observe(Number.parseInt(containerId, 16), AllocationState.RUNNING);
      this.drive.must(command("migrationFinished", { id, figures: undefined }));
    }
  }
  /** The node says that it has stopped what it was told to. */
  stopped(number: number, node: string): void {
    const { epoch = 0 } = this.drive.container(number).allocation ?? {};
    this.seen.report(node, [{ containerId: idOf(number), epoch, state: AllocationState.EXITED }]);
  }
}

test("room is made by a live move, if that is enough", () => {
  const scene = new Scene("n1", "n2");
  scene.run(1, "n1", 500);
  scene.run(2, "n2", 300);
  scene.drive.create(3, "high", { ...memoryLimit(1000), priority: 1 });
  expect(scene.kinds()).toEqual(["migrationStarted"]);
  const [migration] = Object.values(scene.drive.cluster.state.migrations);
  expect(migration).toMatchObject({ reason: "preemption", forContainerId: idOf(3) });
  expect(scene.drive.container(3).nominatedNode).toBe(migration?.from);
  // While it is under way nothing else is begun, and nobody less important takes the room.
  scene.drive.create(4, "late", memoryLimit(300));
  expect(scene.kinds()).toEqual([]);
  scene.finishMoves();
  expect(scene.kinds()).toEqual(["allocationPlaced"]);
  expect(scene.nodeOf(3)).toBe(migration?.from);
  expect(scene.nodeOf(4)).toBeUndefined();
});

test("nobody is stopped who did not agree to it, or who is as important", () => {
  const scene = new Scene("n1", "n2", "n3", "n4");
  scene.run(1, "n1", 900);
  scene.run(2, "n2", 900, { preemption: NEVER });
  scene.run(3, "n3", 900, { preemption: STOP, priority: 1 });
  scene.run(4, "n4", 900, { migration: MigrationPolicy.NEVER });
  scene.drive.create(9, "high", { ...memoryLimit(500), priority: 1 });
  expect(scene.kinds()).toEqual([]);
  expect(scene.kinds()).toEqual([]);
  expect(viewPlacement(scene.drive.cluster, scene.seen, scene.drive.container(9))).toMatchObject({
    node: undefined,
    preemption: [],
  });
});

test("one that must be stopped waits, and is placed again when there is room", () => {
  const scene = new Scene("n1");
  scene.run(1, "n1", 900, { preemption: STOP });
  const high = scene.drive.create(2, "high", { ...memoryLimit(500), priority: 3 });
  expect(viewPlacement(scene.drive.cluster, scene.seen, high).preemption).toEqual([
    { container: "c1", node: "n1", to: undefined },
  ]);
  expect(scene.kinds()).toEqual(["containerPreempted"]);
  const wanted = desiredFor(scene.drive.cluster, scene.seen, "n1")?.allocations[0];
  expect(wanted).toMatchObject({ containerId: idOf(1), desired: "DESIRED_STATE_STOPPED" });
  // Only when its node has taken that in and says that it has stopped is it let go.
  scene.seen.report("n1", [{ containerId: idOf(1), epoch: 1, state: AllocationState.RUNNING }]);
  expect(scene.kinds()).toEqual([]);
  scene.seen.report("n1", [{ containerId: idOf(1), epoch: 1, state: AllocationState.EXITED }], false);
  expect(scene.kinds()).toEqual([]);
  scene.stopped(1, "n1");
  expect(scene.kinds()).toEqual(["allocationReleased"]);
  expect(scene.kinds()).toEqual(["allocationPlaced"]);
  expect(scene.nodeOf(2)).toBe("n1");
  scene.round();
  expect(scene.drive.container(1).placementFailure).toMatch(
    /^stopped on n1 to make room for high \(priority 3\); no node fits: 1 of 1 lacks 900 MiB/,
  );
  scene.drive.must(command("containerRemoveRequested", { id: idOf(2), force: true }));
  scene.drive.must(command("containerRemoved", { id: idOf(2) }));
  expect(scene.kinds()).toEqual(["allocationPlaced"]);
  expect(scene.drive.container(1).allocation).toMatchObject({ node: "n1", epoch: 2 });
  expect(scene.drive.container(1).preemption?.endedAtMs).toBeGreaterThan(0);
});

test("nobody is put beside one for which room is still being made: it is not there yet", () => {
  const scene = new Scene("n1");
  scene.run(1, "n1", 900, { preemption: STOP });
  scene.drive.create(2, "high", { ...memoryLimit(500), priority: 3, labels: { kind: "front" } });
  expect(scene.kinds()).toEqual(["containerPreempted"]);
  const affinity = [{ key: "kind", value: "front", unequal: false }];
  scene.drive.create(3, "friend", { ...memoryLimit(0), affinity });
  expect(scene.kinds()).toEqual([]);
  scene.stopped(1, "n1");
  expect(scene.kinds()).toEqual(["allocationReleased"]);
  scene.round();
  scene.round();
  expect([scene.nodeOf(2), scene.nodeOf(3)]).toEqual(["n1", "n1"]);
});

test("room that a lost node was to give is made elsewhere", () => {
  const scene = new Scene("n1", "n2");
  scene.run(1, "n1", 900, { preemption: STOP });
  scene.run(2, "n2", 900, { preemption: STOP, priority: 1 });
  scene.drive.create(3, "high", { ...memoryLimit(500), priority: 3 });
  expect(scene.kinds()).toEqual(["containerPreempted"]);
  expect(scene.drive.container(3).nominatedNode).toBe("n1");
  scene.drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "silent" }));
  expect(scene.kinds()).toEqual(["containerPreempted"]);
  scene.stopped(2, "n2");
  expect(scene.kinds()).toEqual(["allocationReleased"]);
  expect(scene.kinds()).toEqual(["allocationPlaced"]);
  expect(scene.nodeOf(3)).toBe("n2");
});

test("few and unimportant ones leave, and only where that is enough", () => {
  const scene = new Scene("n1", "n2");
  for (const number of [1, 2, 3]) scene.run(number, "n1", 300, { preemption: STOP });
  scene.run(4, "n2", 900, { preemption: STOP, priority: 2 });
  scene.drive.create(8, "huge", { ...memoryLimit(1025), priority: 9 });
  expect(scene.kinds()).toEqual([]);
  scene.drive.create(9, "high", { ...memoryLimit(600), priority: 3 });
  expect(scene.kinds()).toEqual(["containerPreempted", "containerPreempted"]);
  expect(
    [...scene.drive.cluster.index.placement.preempted].map(
      (id) => scene.drive.cluster.state.containers[id]?.allocation?.node,
    ),
  ).toEqual(["n1", "n1"]);
});

test("a move that fails twice is not tried a third time, and then nothing is", () => {
  const scene = new Scene("n1", "n2");
  scene.run(1, "n1", 500);
  scene.run(2, "n2", 500, { preemption: NEVER });
  scene.drive.create(3, "high", { ...memoryLimit(600), priority: 1 });
  for (const attempt of [1, 2]) {
    expect([attempt, scene.kinds()]).toEqual([attempt, ["migrationStarted"]]);
    for (const id of scene.drive.cluster.index.moving)
      scene.drive.must(command("migrationAborted", { id, reason: "no luck" }));
    expect(scene.drive.container(3).nominatedNode).toBe("");
  }
  expect(scene.kinds()).toEqual([]);
  expect(scene.kinds()).toEqual([]);
});

test("the log refuses to let the more important yield", () => {
  const scene = new Scene("n1");
  scene.run(1, "n1", 900, { preemption: STOP, priority: 5 });
  scene.run(2, "n1", 10, { preemption: MOVE });
  scene.drive.create(3, "high", { ...memoryLimit(500), priority: 5 });
  const preempt = (number: number) =>
    scene.drive.try(
      command("containerPreempted", {
        containerId: idOf(number),
        node: "n1",
        epoch: 1,
        forContainerId: idOf(3),
      }),
    )?.message;
  expect(preempt(1)).toMatch(/does not yield/);
  expect(preempt(2)).toMatch(/may be moved, and not stopped/);
  expect(
    scene.drive.try(command("allocationReleased", { containerId: idOf(1), node: "n1", epoch: 1 }))?.message,
  ).toMatch(/was not asked/);
});

test("whoever leaves is less important, everything comes to rest, and no plan is refused", () => {
  let left = 0;
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          mib: fc.constantFrom(200, 500, 900),
          rules: anyRules,
          node: fc.constantFrom("n1", "n2", "n3"),
        }),
        {
          minLength: 4,
          maxLength: 10,
        },
      ),
      fc.array(fc.record({ mib: fc.constantFrom(300, 600, 1000), rules: anyRules }), {
        minLength: 1,
        maxLength: 3,
      }),
      (there, coming) => {
        const scene = new Scene("n1", "n2", "n3");
        for (const [at, { mib, node, rules }] of there.entries()) {
          const container = scene.drive.create(at + 1, `c${at}`, {
            ...memoryLimit(mib),
            ...rules,
            project: "",
          });
          scene.drive.try(command("allocationPlaced", { containerId: container.id, node, epoch: 1 }));
          if (container.allocation !== undefined) scene.drive.observe(at + 1, AllocationState.RUNNING);
        }
        for (const [at, { mib, rules }] of coming.entries())
          scene.drive.create(100 + at, `d${at}`, { ...memoryLimit(mib), ...rules, priority: 3, project: "" });
        let quiet = 0;
        for (let at = 0; at < 60 && quiet < 3; at += 1) {
          const commands = scene.round();
          for (const { command: one } of commands) {
            const forId =
              one?.$case === "containerPreempted" || one?.$case === "migrationStarted"
                ? one.value.forContainerId
                : undefined;
            if (forId === undefined || one === undefined || !("containerId" in one.value)) continue;
            left += 1;
            const { containers } = scene.drive.cluster.state;
            const victim = containers[one.value.containerId];
            const waiting = containers[forId];
            expect(victim === undefined ? 0 : priorityOf(victim)).toBeLessThan(
              waiting === undefined ? 0 : priorityOf(waiting),
            );
          }
          scene.finishMoves();
          for (const id of scene.drive.cluster.index.placement.preempted) {
            const number = Number.parseInt(id, 16);
            scene.stopped(number, scene.nodeOf(number) ?? "");
          }
          for (const [id, { allocation }] of Object.entries(scene.drive.cluster.state.containers))
            if (allocation?.state === AllocationState.PENDING)
              scene.drive.observe(Number.parseInt(id, 16), AllocationState.RUNNING);
          quiet = commands.length === 0 ? quiet + 1 : 0;
        }
        expect(quiet).toBe(3);
      },
    ),
    { numRuns: 60 },
  );
  expect(left).toBeGreaterThan(20);
});
