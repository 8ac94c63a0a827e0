/** Drains, evacuations and returns as a whole: what a leader does round by round, with whatever becomes of its moves. */
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  AllocationState,
  DesiredState,
  MigrationState,
  Node,
  NodeState,
  type Command,
  type Container,
} from "../../proto/gen/godwit/v1/log.ts";
import { ServiceSpec, UpdateOrder } from "../../proto/gen/godwit/v1/service.ts";
import { MigrationMode, MigrationPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { plannedDrain, plannedReturn } from "../leader/drain-progress.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { digestOf, memoryLimit, MIB, sampleNode, sampleSpec } from "../testing/sample.ts";
import { command } from "./command.ts";
import { PlannedDisruptions } from "./disruption.ts";
import { OVERTIME_MS, planDrains, viewDrain, WORK_OVERTIME_MS } from "./drain.ts";
import { MOVES_PER_TARGET, MoveLimits } from "./move-limits.ts";
import { planReturns } from "./return.ts";

const NODES = ["n1", "n2", "n3", "n4"];
const BLOCKED = { kind: "io-uring", reason: "process 1 (x) uses io_uring", passing: false };

/** Does what the leader would, and makes moves end as it is told. */
class Rounds {
  readonly drive = new Drive(...NODES);
  readonly seen = new FakeVolatile();
  nowMs = 10_000;
  #next = 1_000;

  get cluster(): Cluster {
    return this.drive.cluster;
  }
  /** Agents find this in the way of moving the container. */
  block(number: number): void {
    const { allocation } = this.drive.container(number);
    const before = this.seen.nodes.get(allocation?.node ?? "")?.allocations.values() ?? [];
    this.seen.report(allocation?.node ?? "", [
      ...before,
      { containerId: idOf(number), epoch: allocation?.epoch ?? 0, blockers: [BLOCKED] },
    ]);
  }
  drain(
    rest: {
      deadlineMs?: number;
      parallel?: number;
      force?: boolean;
      perLink?: number;
      evacuate?: boolean;
    } = {},
  ): void {
    this.drive.must(
      command("drainStarted", {
        ...{ node: "n1", drainId: "d1", deadlineMs: 0, parallel: 2, force: false, ...rest },
      }),
    );
  }
  giveBack(node = "n1"): void {
    this.drive.must(command("returnStarted", { node, returnId: `r-${node}`, parallel: 4, perLink: 0 }));
  }
  plan(): Command[] {
    const round = {
      newId: () => idOf((this.#next += 1)),
      nowMs: this.nowMs,
      disruptions: new PlannedDisruptions(this.cluster),
      limits: new MoveLimits(this.cluster),
    };
    return [...planReturns(this.cluster, this.seen, round), ...planDrains(this.cluster, this.seen, round)];
  }
  step(): Command[] {
    this.drive.atMs = this.nowMs;
    const commands = this.plan();
    for (const one of commands) {
      this.drive.must(one);
      if (one.command?.$case === "containerDesiredSet")
        this.drive.observe(Number.parseInt(one.command.value.id, 16), AllocationState.EXITED, 143);
    }
    return commands;
  }
  /** The oldest of the moves that are under way ends. */
  endMove(well: boolean): void {
    const [id] = this.cluster.index.moving;
    const migration = this.cluster.state.migrations[id ?? ""];
    if (id === undefined || migration === undefined) return;
    if (!well) {
      this.drive.must(command("migrationAborted", { id, reason: "it failed" }));
      return;
    }
    this.drive.must(command("migrationSwitched", { id }));
    this.#observe(migration.containerId);
    this.drive.must(command("migrationFinished", { id, figures: undefined }));
  }
  #observe(id: string): void {
    this.drive.observe(Number.parseInt(id, 16), AllocationState.RUNNING);
  }
  /** To its end, all moves ending well. Answers the drain's or return's outcome. */
  finish(name = "n1"): string {
    for (let round = 0; round < 200; round += 1) {
      const node = this.cluster.state.nodes[name];
      const outcome = node?.return?.outcome === "" ? "" : node?.drain?.outcome;
      if (outcome !== "" && node?.return?.outcome !== "") return node?.return?.outcome ?? outcome ?? "";
      this.step();
      this.endMove(true);
      this.nowMs += 1_000;
    }
    throw new Error("it does not come to an end");
  }
  on(number: number): string {
    return this.drive.container(number).allocation?.node ?? "";
  }
}

const service = (rounds: Rounds, name: string, from: number, count: number, maxUnavailable: number): void => {
  const spec = ServiceSpec.fromPartial({
    name,
    replicas: count,
    template: { image: "redis", imageDigest: digestOf("a"), migration: MigrationPolicy.COLD },
    update: { order: UpdateOrder.START_FIRST },
    disruption: { limit: { $case: "maxUnavailable", value: maxUnavailable } },
  });
  rounds.drive.must(command("servicesApplied", { services: [{ spec, expectedVersion: 0 }] }));
  for (let number = from; number < from + count; number += 1) {
    const id = idOf(number);
    rounds.drive.must(
      command("serviceContainerCreated", { id, service: name, revision: 1, name: `${name}-${number}` }),
    );
    rounds.drive.place(number, "n1");
    rounds.drive.observe(number, AllocationState.RUNNING);
  }
};

const planOf = (rounds: Rounds, options: { force?: boolean; deadlineMs?: number } = {}): string[] =>
  plannedDrain(rounds.cluster, rounds.seen, "n1", {
    ...{ force: false, deadlineMs: 0, nowMs: rounds.nowMs, ...options },
  }).plan.map(
    ({ action, atDeadline, container, to }) =>
      `${container} ${action}${to === "" ? "" : ` ${to}`}${atDeadline ? " last" : ""}`,
  );

describe("the ladder", () => {
  const mixed = (): Rounds => {
    const rounds = new Rounds();
    rounds.drive.run(1, "blocked", "n1");
    rounds.drive.run(2, "cold", "n1", { migration: MigrationPolicy.COLD });
    rounds.drive.run(3, "live", "n1");
    rounds.drive.run(4, "never", "n1", { migration: MigrationPolicy.NEVER });
    rounds.block(1);
    return rounds;
  };

  test("a plan says what becomes of each, and it becomes that", () => {
    const rounds = mixed();
    expect(planOf(rounds)).toEqual(["blocked stay", "cold cold n2", "live live n3", "never stay"]);
    rounds.drain();
    expect(rounds.finish()).toMatch(/^failed: cannot be moved: blocked .*io_uring.*never .*policy "never"/);
    expect([1, 2, 3, 4].map((number) => rounds.on(number))).toEqual(["n1", "n2", "n3", "n1"]);
    const modes = Object.values(rounds.cluster.state.migrations).map(({ containerName, mode }) => [
      containerName,
      mode,
    ]);
    expect(Object.fromEntries(modes)).toEqual({ cold: MigrationMode.COLD, live: MigrationMode.PRECOPY });
  });

  test("at the deadline, what cannot be moved live is started elsewhere, but not what may not be moved", () => {
    const rounds = mixed();
    expect(planOf(rounds, { deadlineMs: 60_000 })).toEqual([
      "blocked cold n2 last",
      "cold cold n2",
      "live live n3",
      "never stay",
    ]);
    rounds.drain({ deadlineMs: rounds.nowMs + 60_000 });
    expect(rounds.finish()).toMatch(/^failed: cannot be moved: never/);
    expect(rounds.nowMs).toBeGreaterThan(70_000);
    expect(rounds.on(1)).not.toBe("n1");
  });

  test("with force, what can go nowhere is stopped in the end", () => {
    const rounds = mixed();
    rounds.drive.run(5, "pinned", "n1", { labels: {} });
    // No other node has room for it.
    for (const [at, node] of ["n2", "n3", "n4"].entries())
      rounds.drive.run(20 + at, `big-${at}`, node, memoryLimit(900));
    const large = rounds.drive.run(6, "large", "n1", memoryLimit(200));
    expect(planOf(rounds, { force: true })).toContain("large stop last");
    rounds.drain({ force: true });
    expect(rounds.finish()).toBe("drained");
    expect(large.desired).toBe(DesiredState.STOPPED);
    for (const number of [1, 2, 3, 4, 5]) expect(rounds.on(number)).not.toBe("n1");
  });

  test("a move to the node is called off when its drain begins, and nothing new lands there", () => {
    const rounds = new Rounds();
    rounds.drive.run(1, "a", "n2");
    expect(rounds.drive.startMove(77, 1, "n1")).toBeUndefined();
    rounds.drive.create(2, "b");
    rounds.drain();
    expect(rounds.cluster.state.migrations[idOf(77)]).toMatchObject({
      state: MigrationState.ABORTED,
      error: "node n1 is being drained",
    });
    expect(rounds.drive.startMove(78, 1, "n1")?.message).toMatch(/being drained/);
    const place = command("allocationPlaced", { containerId: idOf(2), node: "n1", epoch: 1 });
    expect(rounds.drive.try(place)?.message).toMatch(/being drained/);
    expect(rounds.finish()).toBe("drained");
    expect(rounds.on(1)).toBe("n2");
  });

  test("targets of the plan that was shown are kept to while they fit", () => {
    const rounds = new Rounds();
    rounds.drive.run(1, "a", "n1");
    rounds.drive.run(2, "b", "n1");
    rounds.drive.must(
      command("drainStarted", {
        ...{ node: "n1", drainId: "d1", deadlineMs: 0, parallel: 2, force: false },
        plan: {
          moves: [
            { containerId: idOf(1), to: "n4" },
            { containerId: idOf(2), to: "n3" },
          ],
        },
      }),
    );
    rounds.drive.must(command("nodeSchedulableSet", { node: "n3", schedulable: false }));
    expect(rounds.finish()).toBe("drained");
    expect([rounds.on(1), rounds.on(2)]).toEqual(["n4", "n2"]);
  });

  test("a disruption budget is waited for, after the deadline too, and then named", () => {
    const rounds = new Rounds();
    service(rounds, "web", 1, 3, 0);
    rounds.drain({ deadlineMs: rounds.nowMs + 5_000 });
    expect(rounds.finish()).toMatch(
      /^failed: the deadline passed with 3 still there: web-1 .*have to|has to stay/,
    );
    expect(rounds.nowMs).toBeGreaterThan(10_000 + OVERTIME_MS);
    const others = new Rounds();
    service(others, "web", 1, 3, 1);
    others.drain({ parallel: 8 });
    expect(others.finish()).toBe("drained");
  });
});

test("of very many nodes the only one with room is found, and the others are used evenly", () => {
  const rounds = new Rounds();
  const { nodes } = rounds.cluster.state;
  for (let at = 5; at <= 600; at += 1) {
    const info = sampleNode(`n${at}`, { memoryBytes: at === 300 ? 4096 * MIB : 1024 * MIB });
    nodes[`n${at}`] = Node.fromPartial({ info, state: NodeState.READY, schedulable: true, index: at });
  }
  rounds.drive.must(
    command("nodeJoined", { info: sampleNode("n1", { memoryBytes: 8192 * MIB }), incarnation: "i-n1" }),
  );
  for (let number = 1; number <= 8; number += 1)
    rounds.drive.run(number, `c${number}`, "n1", memoryLimit(100));
  rounds.drive.run(9, "large", "n1", memoryLimit(2_000));
  const { plan } = plannedDrain(rounds.cluster, rounds.seen, "n1", { force: false, deadlineMs: 0, nowMs: 0 });
  expect(new Set(plan.map(({ to }) => to)).size).toBe(9);
  expect(plan.find(({ container }) => container === "large")?.to).toBe("n300");
});

describe("evacuate and return", () => {
  test("what was evacuated comes back; what others have decided about is left alone, and said", () => {
    const rounds = new Rounds();
    for (const [at, name] of ["a", "b", "c", "d"].entries()) rounds.drive.run(at + 1, name, "n1");
    rounds.drain({ evacuate: true });
    expect(rounds.finish()).toBe("drained");
    expect(rounds.drive.container(1).origins).toEqual({ nodes: ["n1"] });
    // b is moved by somebody, c is removed.
    const to = rounds.on(2) === "n2" ? "n3" : "n2";
    expect(rounds.drive.startMove(77, 2, to)).toBeUndefined();
    rounds.endMove(true);
    rounds.drive.must(command("containerRemoveRequested", { id: idOf(3), force: true }));
    rounds.drive.must(command("containerRemoved", { id: idOf(3) }));
    const plan = plannedReturn(rounds.cluster, rounds.seen, "n1").plan;
    expect(plan.map(({ action, container }) => `${container} ${action}`)).toEqual([
      "a live",
      "b stay",
      "c stay",
      "d live",
    ]);
    rounds.giveBack();
    expect(rounds.finish()).toBe("returned");
    expect([1, 2, 4].map((number) => rounds.on(number))).toEqual(["n1", to, "n1"]);
    expect(rounds.cluster.state.nodes["n1"]).toMatchObject({
      schedulable: true,
      return: {
        leftAlone: [
          { containerName: "b", reason: `was moved since: it is on ${to}` },
          { containerName: "c", reason: "was removed since" },
        ],
      },
    });
    expect(rounds.cluster.state.nodes["n1"]?.evacuees).toBeUndefined();
    for (const number of [1, 2, 4]) expect(rounds.drive.container(number).origins).toBeUndefined();
  });

  test("one that is evacuated again while it is away can go back step by step, or home at once", () => {
    const twice = (): { rounds: Rounds; second: string } => {
      const rounds = new Rounds();
      rounds.drive.run(1, "a", "n1");
      rounds.drain({ evacuate: true });
      expect(rounds.finish()).toBe("drained");
      const second = rounds.on(1);
      rounds.drive.must(
        command("drainStarted", {
          ...{ node: second, drainId: "d2", deadlineMs: 0, parallel: 1, force: false, evacuate: true },
        }),
      );
      for (let round = 0; round < 3; round += 1) {
        rounds.step();
        rounds.endMove(true);
      }
      expect(rounds.drive.container(1).origins).toEqual({ nodes: ["n1", second] });
      return { rounds, second };
    };
    const steps = twice();
    steps.rounds.giveBack(steps.second);
    expect(steps.rounds.finish(steps.second)).toBe("returned");
    expect(steps.rounds.on(1)).toBe(steps.second);
    steps.rounds.giveBack();
    expect(steps.rounds.finish()).toBe("returned");
    const home = twice();
    home.rounds.giveBack();
    expect(home.rounds.finish()).toBe("returned");
    for (const { rounds, second } of [steps, home]) {
      expect(rounds.on(1)).toBe("n1");
      expect(rounds.drive.container(1).origins).toBeUndefined();
      for (const name of ["n1", second]) expect(rounds.cluster.state.nodes[name]?.evacuees).toBeUndefined();
    }
  });

  test("what the balancer has moved meanwhile comes back too", () => {
    const rounds = new Rounds();
    rounds.drive.run(1, "a", "n1");
    rounds.drain({ evacuate: true });
    rounds.finish();
    const to = rounds.on(1) === "n2" ? "n3" : "n2";
    const { epoch = 0, node: from = "" } = rounds.drive.container(1).allocation ?? {};
    rounds.drive.must(
      command("migrationStarted", {
        ...{ id: idOf(77), containerId: idOf(1), from, to, epoch: epoch + 1, mode: MigrationMode.AUTO },
        ...{ blackoutBudgetMs: 0, drainId: "", reason: "balance", bandwidthBytesPerSecond: 0 },
      }),
    );
    rounds.endMove(true);
    expect(rounds.on(1)).toBe(to);
    rounds.giveBack();
    expect(rounds.finish()).toBe("returned");
    expect(rounds.on(1)).toBe("n1");
  });

  test("a return that is cancelled can be begun again", () => {
    const rounds = new Rounds();
    rounds.drive.run(1, "a", "n1");
    rounds.drain({ evacuate: true });
    rounds.finish();
    rounds.giveBack();
    rounds.drive.must(command("returnEnded", { node: "n1", returnId: "r-n1", outcome: "cancelled" }));
    expect(rounds.step()).toEqual([]);
    rounds.drive.must(command("returnStarted", { node: "n1", returnId: "r2", parallel: 1, perLink: 0 }));
    expect(rounds.finish()).toBe("returned");
    expect(rounds.on(1)).toBe("n1");
  });
});

interface Kind {
  readonly policy: MigrationPolicy;
  readonly memoryMib: number;
  readonly isBlocked: boolean;
  readonly isStarting: boolean;
}

const kind: fc.Arbitrary<Kind> = fc.record({
  policy: fc.constantFrom(MigrationPolicy.LIVE, MigrationPolicy.COLD, MigrationPolicy.NEVER),
  memoryMib: fc.constantFrom(0, 100, 400, 900),
  isBlocked: fc.boolean(),
  isStarting: fc.constantFrom(false, false, false, true),
});

const unavailable = (cluster: Cluster): number => 3 - new PlannedDisruptions(cluster).availableOf("web").size;

test("limits are kept, budgets are not broken, every drain ends or says why, and a cancel ends it at any step", () => {
  let drained = 0;
  let cold = 0;
  fc.assert(
    fc.property(
      fc.array(kind, { maxLength: 12 }),
      fc.record({
        parallel: fc.integer({ min: 1, max: 6 }),
        perLink: fc.integer({ min: 1, max: 3 }),
        force: fc.boolean(),
        deadlineSeconds: fc.constantFrom(0, 0, 5, 30),
      }),
      fc.integer({ min: 0, max: 2 }),
      fc.infiniteStream(fc.integer({ min: 0, max: 9 })),
      fc.option(fc.integer({ min: 0, max: 25 }), { nil: undefined, freq: 3 }),
      (kinds, { deadlineSeconds, ...terms }, budget, luck, cancelAt) => {
        const rounds = new Rounds();
        const { cluster, drive } = rounds;
        service(rounds, "web", 101, 3, budget);
        for (const [at, { isBlocked, isStarting, memoryMib, policy }] of kinds.entries()) {
          const number = at + 1;
          if (
            drive.try(
              command("containerCreated", {
                id: idOf(number),
                spec: {
                  ...sampleSpec(`c${number}`, { imageDigest: digestOf("a") }),
                  migration: policy,
                  ...memoryLimit(memoryMib),
                },
              }),
            ) !== undefined
          )
            continue;
          if (
            drive.try(command("allocationPlaced", { containerId: idOf(number), node: "n1", epoch: 1 })) !==
            undefined
          )
            continue;
          if (!isStarting) drive.observe(number, AllocationState.RUNNING);
          if (isBlocked) rounds.block(number);
        }
        const deadlineMs = deadlineSeconds === 0 ? 0 : rounds.nowMs + deadlineSeconds * 1000;
        rounds.drain({ ...terms, deadlineMs });
        const isOver = (): boolean => cluster.state.nodes["n1"]?.drain?.outcome !== "";
        const limitMs = rounds.nowMs + 60_000 + WORK_OVERTIME_MS;
        for (let at = 0; !isOver(); at += 1) {
          if (at === cancelAt) {
            drive.must(command("drainEnded", { node: "n1", drainId: "d1", outcome: "cancelled" }));
            expect(rounds.plan()).toEqual([]);
            return;
          }
          const before = unavailable(cluster);
          for (const { command: one } of rounds.step())
            if (one?.$case === "migrationStarted" && one.value.mode === MigrationMode.COLD) cold += 1;
          expect(unavailable(cluster)).toBeLessThanOrEqual(Math.max(before, budget));
          const moving = [...cluster.index.moving].flatMap((id) => cluster.state.migrations[id] ?? []);
          expect(moving.length).toBeLessThanOrEqual(terms.parallel);
          for (const target of NODES) {
            const there = moving.filter(({ to }) => to === target).length;
            expect(there).toBeLessThanOrEqual(Math.min(MOVES_PER_TARGET, terms.perLink));
          }
          // One that starts comes up some time, and moves end in one way or the other.
          const chance = luck.next().value;
          if (chance < 8) rounds.endMove(chance > 1);
          if (chance === 0) for (const [number] of kinds.entries()) start(rounds, number + 1);
          rounds.nowMs += 3_000;
          if (rounds.nowMs <= limitMs) continue;
          const { drain } = cluster.state.nodes["n1"] ?? {};
          const { waiting } = viewDrain(cluster, rounds.seen, "n1", { drain, nowMs: rounds.nowMs });
          // What nobody gave a deadline waits for a budget or a start, and says so.
          expect(deadlineMs).toBe(0);
          expect(waiting).not.toEqual([]);
          for (const { reason } of waiting) expect(reason).toMatch(/has to stay for now|is starting/);
          return;
        }
        const { outcome = "" } = cluster.state.nodes["n1"]?.drain ?? {};
        const left = [...(cluster.index.onNode.get("n1") ?? [])].flatMap(
          (id) => cluster.state.containers[id] ?? [],
        );
        if (outcome === "drained") {
          drained += 1;
          expect(left.filter(isAtWork)).toEqual([]);
        } else
          for (const container of left.filter(isAtWork).slice(0, 1))
            expect(outcome).toContain(nameOf(container).slice(0, 1));
        // Nothing that may not be moved was, unless that was ordered.
        for (const [at, { policy }] of kinds.entries())
          if (
            policy === MigrationPolicy.NEVER &&
            !terms.force &&
            cluster.state.containers[idOf(at + 1)]?.allocation !== undefined
          )
            expect(rounds.on(at + 1)).toBe("n1");
        for (const { containerId, mode, state } of Object.values(cluster.state.migrations))
          if (state === MigrationState.FINISHED && mode !== MigrationMode.COLD)
            expect(cluster.state.containers[containerId]?.spec?.migration).not.toBe(MigrationPolicy.COLD);
      },
    ),
    { numRuns: 150 },
  );
  expect(drained).toBeGreaterThan(10);
  expect(cold).toBeGreaterThan(50);
});

const isAtWork = ({ allocation, desired }: Container): boolean =>
  desired === DesiredState.RUNNING && allocation?.state === AllocationState.RUNNING;

const start = (rounds: Rounds, number: number): void => {
  const container = rounds.cluster.state.containers[idOf(number)];
  if (container?.allocation?.state === AllocationState.PENDING)
    rounds.drive.observe(number, AllocationState.RUNNING);
};
