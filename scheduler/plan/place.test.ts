import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { Command, Container } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { nextEpoch, type Cluster } from "../state/cluster.ts";
import { targetCheck } from "../state/move-check.ts";
import { anyRules } from "../testing/arbitrary-placement.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { memoryLimit, MIB, sampleNode } from "../testing/sample.ts";
import { command } from "./command.ts";
import { planPlacements } from "./place.ts";
import { placeOne, PlannedUse } from "./placement.ts";
import { WaitingRoom } from "./placement/waiting-room.ts";

const LOOKS = new FakeVolatile();
const round = (drive: Drive, room: WaitingRoom, nowMs = drive.atMs): Command[] =>
  planPlacements(drive.cluster, LOOKS, { planned: new PlannedUse(drive.cluster), room, nowMs });

/** Plans and applies until nothing is left to do. */
const settle = (drive: Drive, room: WaitingRoom): string[] => {
  const refused: string[] = [];
  for (let at = 0; at < 20; at += 1) {
    const commands = round(drive, room);
    if (commands.length === 0) return refused;
    for (const one of commands) {
      const outcome = drive.try(one);
      if (outcome !== undefined) refused.push(outcome.message);
    }
  }
  throw new Error("it does not come to rest");
};

/** All that is on a node or on its way there or from there. */
const here = ({ index, state }: Cluster, node: string): Container[] =>
  [index.onNode, index.arriving, index.leaving].flatMap((map) =>
    [...(map.get(node) ?? [])].flatMap((id) => state.containers[id] ?? []),
  );

/** The rules once more, in other words. */
const brokenRules = (cluster: Cluster): string[] =>
  Object.keys(cluster.state.nodes).flatMap((node) => {
    const containers = here(cluster, node);
    const broken: string[] = [];
    const memory = containers.reduce((sum, { spec }) => sum + (spec?.limits?.memoryBytes ?? 0), 0);
    if (memory > 1024 * MIB) broken.push(`${node} has promised ${memory} bytes`);
    for (const one of containers)
      for (const other of containers) {
        if (one.id === other.id) continue;
        if (one.spec?.antiAffinity.some(({ key, value }) => other.spec?.labels[key] === value))
          broken.push(`${one.id} is beside ${other.id} on ${node}`);
        for (const { hostPort, protocol } of one.spec?.ports ?? [])
          for (const taken of other.spec?.ports ?? [])
            if (hostPort === taken.hostPort && (protocol === "udp") === (taken.protocol === "udp"))
              broken.push(`port ${hostPort} of ${node} leads to two`);
      }
    return broken;
  });

type Happening =
  | { readonly kind: "create"; readonly number: number; readonly mib: number; readonly rules: object }
  | { readonly kind: "remove"; readonly number: number }
  | { readonly kind: "cordon"; readonly node: string; readonly off: boolean }
  | { readonly kind: "label"; readonly node: string; readonly zone: string }
  | { readonly kind: "join"; readonly node: string }
  | { readonly kind: "move"; readonly number: number; readonly to: string; readonly ends: boolean };

const node = fc.constantFrom("n1", "n2", "n3", "n4");
const number = fc.integer({ min: 1, max: 12 });
const happening: fc.Arbitrary<Happening> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("create" as const),
      number,
      mib: fc.constantFrom(0, 200, 500, 900),
      rules: anyRules,
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("remove" as const), number }) },
  fc.record({ kind: fc.constant("cordon" as const), node, off: fc.boolean() }),
  fc.record({ kind: fc.constant("label" as const), node, zone: fc.constantFrom("a", "b") }),
  fc.record({ kind: fc.constant("join" as const), node: fc.constantFrom("n3", "n4") }),
  fc.record({ kind: fc.constant("move" as const), number, to: node, ends: fc.boolean() }),
);

/** What cannot happen now does not. */
const happen = (drive: Drive, one: Happening, migration: number): void => {
  const attempt = (given: Command): boolean => drive.try(given) === undefined;
  switch (one.kind) {
    case "create":
      if (drive.cluster.state.containers[idOf(one.number)] === undefined)
        drive.create(one.number, `c${one.number}`, { ...memoryLimit(one.mib), ...one.rules, project: "" });
      return;
    case "remove":
      attempt(command("containerRemoveRequested", { id: idOf(one.number), force: true }));
      attempt(command("containerRemoved", { id: idOf(one.number) }));
      return;
    case "cordon":
      attempt(command("nodeSchedulableSet", { node: one.node, schedulable: one.off }));
      return;
    case "label":
      attempt(command("nodeLabelsSet", { node: one.node, set: { zone: one.zone }, remove: [] }));
      return;
    case "join":
      attempt(command("nodeJoined", { info: sampleNode(one.node), incarnation: `i-${one.node}` }));
      return;
    case "move": {
      const container = drive.cluster.state.containers[idOf(one.number)];
      if (container?.allocation === undefined || drive.startMove(migration, one.number, one.to) !== undefined)
        return;
      if (one.ends) attempt(command("migrationAborted", { id: idOf(migration), reason: "x" }));
      else attempt(command("migrationSwitched", { id: idOf(migration) }));
    }
  }
};

test("no rule is ever broken, no plan refused, and nobody waits who could be placed", () => {
  let placed = 0;
  let waited = 0;
  fc.assert(
    fc.property(fc.array(happening, { minLength: 10, maxLength: 60, size: "max" }), (story) => {
      const drive = new Drive("n1", "n2");
      const room = new WaitingRoom();
      for (const [at, one] of story.entries()) {
        happen(drive, one, 1_000 + at);
        for (const id of drive.cluster.index.onNode.get("n1") ?? [])
          if (drive.container(Number.parseInt(id, 16)).allocation?.state === "ALLOCATION_STATE_PENDING")
            drive.observe(Number.parseInt(id, 16), "ALLOCATION_STATE_RUNNING");
        drive.atMs += 10;
        expect(settle(drive, room)).toEqual([]);
        expect(brokenRules(drive.cluster)).toEqual([]);
        for (const id of drive.cluster.index.unplaced) {
          const container = drive.cluster.state.containers[id];
          if (container === undefined) continue;
          waited += 1;
          expect(placeOne(drive.cluster, container)).toBeUndefined();
          expect(container.placementFailure).not.toBe("");
        }
        placed += drive.cluster.index.onNode.size;
      }
    }),
    { numRuns: 60 },
  );
  expect(placed).toBeGreaterThan(500);
  expect(waited).toBeGreaterThan(100);
});

test("the log refuses what would break a rule, whoever plans it", () => {
  let refusedCount = 0;
  fc.assert(
    fc.property(
      fc.array(fc.record({ mib: fc.constantFrom(0, 400), rules: anyRules, to: node }), {
        minLength: 4,
        maxLength: 12,
      }),
      (containers) => {
        const drive = new Drive("n1", "n2");
        for (const [at, { mib, rules, to }] of containers.entries()) {
          const container = drive.create(at + 1, `c${at}`, { ...memoryLimit(mib), ...rules, project: "" });
          const refused = drive.try(
            command("allocationPlaced", { containerId: container.id, node: to, epoch: nextEpoch(container) }),
          );
          if (refused !== undefined) refusedCount += 1;
          expect(brokenRules(drive.cluster)).toEqual([]);
          // A move goes by the same rules.
          if (refused === undefined && container.allocation !== undefined) {
            drive.observe(at + 1, "ALLOCATION_STATE_RUNNING");
            const other = to === "n1" ? "n2" : "n1";
            const reason = targetCheck(drive.cluster, container, other, MigrationMode.PRECOPY);
            expect(drive.startMove(100 + at, at + 1, other)?.message).toBe(reason?.message);
            expect(brokenRules(drive.cluster)).toEqual([]);
          }
        }
      },
    ),
    { numRuns: 100 },
  );
  expect(refusedCount).toBeGreaterThan(50);
});

test("those that wait are not asked about again until something has changed that may help", () => {
  const drive = new Drive("n1", "n2");
  const room = new WaitingRoom();
  drive.run(1, "a", "n1", memoryLimit(900));
  drive.run(2, "b", "n2", memoryLimit(900));
  for (let at = 10; at < 60; at += 1) drive.create(at, `w${at}`, memoryLimit(200));
  expect(settle(drive, room)).toEqual([]);
  expect([...room.kinds].map(({ waiting }) => waiting.size)).toEqual([50]);
  expect(drive.container(10).placementFailure).toBe(
    "no node fits: 2 of 2 lack 200 MiB of memory (n1 has most free: 124 MiB)",
  );
  let looked = 0;
  const { nodes } = drive.cluster.state;
  const counting = new Proxy(nodes, {
    get: (target, key: string) => {
      looked += 1;
      return target[key];
    },
  });
  Object.assign(drive.cluster.state, { nodes: counting });
  expect(round(drive, room)).toEqual([]);
  expect(looked).toBe(0);
  // A container that could not help by its going is nothing to look at either.
  drive.must(command("nodeSchedulableSet", { node: "n1", schedulable: false }));
  expect(round(drive, room)).toEqual([]);
  Object.assign(drive.cluster.state, { nodes });
  drive.must(command("containerRemoveRequested", { id: idOf(2), force: true }));
  drive.must(command("containerRemoved", { id: idOf(2) }));
  const placed = round(drive, room).filter(({ command: one }) => one?.$case === "allocationPlaced");
  expect(placed).toHaveLength(5);
  for (const one of placed) drive.must(one);
  expect(drive.container(14).allocation?.node).toBe("n2");
  expect(drive.container(15).allocation).toBeUndefined();
});

test("the more important is placed first, and of equals the older", () => {
  const drive = new Drive("n1");
  const room = new WaitingRoom();
  drive.create(1, "old", memoryLimit(600));
  drive.create(2, "new", { ...memoryLimit(600), priority: 5 });
  expect(settle(drive, room)).toEqual([]);
  expect(drive.container(2).allocation?.node).toBe("n1");
  expect(drive.container(1).placementFailure).toMatch(/1 of 1 lacks 600 MiB/);
});

test("a plan that was not written is made again", () => {
  const drive = new Drive("n1");
  const room = new WaitingRoom();
  drive.create(1, "a", memoryLimit(600));
  drive.create(2, "b", memoryLimit(600));
  expect(round(drive, room)).toHaveLength(2);
  // Nothing of it has reached the log.
  const again = round(drive, room).map(({ command: one }) => one?.$case);
  expect(again).toEqual(["allocationPlaced", "allocationObserved"]);
  expect(settle(drive, room)).toEqual([]);
  expect(drive.container(1).allocation?.node).toBe("n1");
});
