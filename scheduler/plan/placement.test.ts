import * as fc from "fast-check";
import { expect, test } from "vitest";
import { NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { PlacementStrategy } from "../../proto/gen/godwit/v1/spec.ts";
import { hasRoom, useOf } from "../state/capacity.ts";
import { limitsOf } from "../state/cluster.ts";
import { Drive } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { digestOf, memoryLimit, MIB, sampleNode } from "../testing/sample.ts";
import { command } from "./command.ts";
import { choosePlacement, PlannedUse, type PlacementOptions } from "./placement.ts";

const cordon = (drive: Drive, node: string): void =>
  drive.must(command("nodeSchedulableSet", { node, schedulable: false }));
const lose = (drive: Drive, node: string): void =>
  drive.must(command("nodeStateChanged", { node, state: NodeState.LOST, reason: "silent" }));
const limits = (memoryMib: number, cpuMillis = 0, pids = 0): ReturnType<typeof memoryLimit> => ({
  limits: { memoryBytes: memoryMib * MIB, cpuMillis, pids, diskBytes: 0 },
});

test.each<[string, string[], (drive: Drive) => void, ReturnType<typeof limits>, PlacementOptions, string]>([
  ["no node", [], () => undefined, limits(0), {}, "no node fits: no node has joined yet"],
  ["no other", ["n1"], () => undefined, limits(0), { except: "n1" }, "no node fits: there is no other node"],
  [
    "a pin to nowhere",
    ["n1"],
    () => undefined,
    limits(0),
    { only: "n7" },
    "no node fits: there is no node n7",
  ],
  [
    "all cordoned",
    ["n1", "n2"],
    (d) => {
      cordon(d, "n1");
      cordon(d, "n2");
    },
    limits(0),
    {},
    "no node fits: 2 of 2 cordoned",
  ],
  [
    "most frequent reason first",
    ["n1", "n2", "n3"],
    (d) => {
      cordon(d, "n1");
      cordon(d, "n2");
      d.run(1, "a", "n3", limits(904));
    },
    limits(512),
    {},
    "no node fits: 2 of 3 cordoned, 1 of 3 lacks 512 MiB of memory (has 120 MiB free)",
  ],
  [
    "the node with most room is named",
    ["n1", "n2", "n3"],
    (d) => {
      d.run(1, "a", "n1", limits(900));
      d.run(2, "b", "n2", limits(800));
      lose(d, "n3");
    },
    limits(512),
    {},
    "no node fits: 2 of 3 lack 512 MiB of memory (n2 has most free: 224 MiB), 1 of 3 lost",
  ],
  [
    "cpus and pids",
    ["n1", "n2"],
    (d) => {
      d.run(1, "a", "n1", limits(0, 3_800));
      d.run(2, "b", "n2", limits(0, 0, 32_700));
    },
    limits(0, 500, 100),
    {},
    "no node fits: 1 of 2 lacks 0.5 cpus (has 0.2 cpus free), 1 of 2 lacks 100 pids (has 68 pids free)",
  ],
  [
    "a drained node",
    ["n1", "n2"],
    (d) => {
      d.must(command("drainStarted", { node: "n1", drainId: "d", deadlineMs: 0, parallel: 1, force: false }));
      cordon(d, "n2");
    },
    limits(0),
    {},
    "no node fits: 1 of 2 being drained, 1 of 2 cordoned",
  ],
  [
    "a full pin",
    ["n1", "n2"],
    (d) => void d.run(1, "a", "n1", limits(1000)),
    limits(100),
    { only: "n1" },
    "its node n1 does not fit: 1 of 1 lacks 100 MiB of memory (has 24 MiB free)",
  ],
])("why nothing fits: %s", (_, nodes, prepare, spec, options, failure) => {
  const drive = new Drive(...nodes);
  prepare(drive);
  expect(choosePlacement(drive.cluster, drive.create(99, "new", spec), options)).toEqual({ failure });
});

test("the smallest promised share wins, then fewer containers, then the name", () => {
  const drive = new Drive("n1", "n2", "n3");
  const place = (options?: PlacementOptions): string | undefined =>
    choosePlacement(drive.cluster, drive.container(99), options).node;
  drive.create(99, "new", limits(100));
  expect(place()).toBe("n1");
  drive.run(1, "a", "n1");
  expect(place()).toBe("n2");
  drive.run(2, "b", "n2", limits(200));
  drive.run(3, "c", "n3", limits(100));
  expect(place()).toBe("n1");
  expect(place({ except: "n1" })).toBe("n3");
  expect(place({ avoid: new Set(["n1", "n3"]) })).toBe("n2");
  expect(place({ avoid: new Set(["n1", "n2", "n3"]) })).toBe("n1");
  drive.must(
    command("nodeJoined", {
      info: sampleNode("n4", { cpuMillis: 64_000, memoryBytes: 64 * 1024 * MIB }),
      incarnation: "x",
    }),
  );
  drive.run(4, "d", "n4", limits(1000));
  drive.run(5, "e", "n1", limits(100));
  expect(place()).toBe("n4");
});

test("room on the way to a node is taken, and so is what was planned in the same round", () => {
  const drive = new Drive("n1", "n2");
  drive.run(1, "a", "n1", limits(600));
  expect(drive.startMove(7, 1, "n2")).toBeUndefined();
  const b = drive.create(2, "b", limits(500));
  expect(choosePlacement(drive.cluster, b).failure).toMatch(/2 of 2 lack 500 MiB/);
  const c = drive.create(3, "c", limits(300));
  const planned = new PlannedUse(drive.cluster);
  expect(choosePlacement(drive.cluster, c, { planned }).node).toBe("n1");
  planned.add("n1", c);
  expect(choosePlacement(drive.cluster, c, { planned }).node).toBe("n2");
  planned.add("n2", c);
  expect(choosePlacement(drive.cluster, c, { planned }).failure).toMatch(
    /2 of 2 lack 300 MiB of memory \(n1 has most free: 124 MiB\)/,
  );
});

test("whatever is chosen fits, and nothing is refused that would fit", () => {
  const load = fc.array(fc.tuple(fc.constantFrom("n1", "n2", "n3"), fc.integer({ min: 0, max: 900 })), {
    maxLength: 12,
  });
  fc.assert(
    fc.property(
      load,
      fc.integer({ min: 6, max: 1024 }),
      fc.subarray(["n1", "n2", "n3"]),
      (placed, mib, cordoned) => {
        const drive = new Drive("n1", "n2", "n3");
        for (const [at, [node, size]] of placed.entries()) {
          const container = drive.create(at + 1, `c${at}`, limits(size < 6 ? 0 : size));
          const there = drive.cluster.state.nodes[node];
          if (there !== undefined && hasRoom(there, useOf(drive.cluster, node), limitsOf(container)))
            drive.place(at + 1, node);
        }
        for (const node of cordoned) cordon(drive, node);
        const container = drive.create(99, "new", limits(mib));
        const fitting = Object.entries(drive.cluster.state.nodes)
          .filter(
            ([name, node]) =>
              node.schedulable && hasRoom(node, useOf(drive.cluster, name), limitsOf(container)),
          )
          .map(([name]) => name);
        const { node, failure } = choosePlacement(drive.cluster, container);
        expect(node === undefined ? [] : fitting).toEqual(fitting);
        expect(node === undefined || fitting.includes(node)).toBe(true);
        expect(failure === undefined).toBe(node !== undefined);
      },
    ),
    { numRuns: 200 },
  );
});

const load = (memoryAvg10: number, cpuAvg10 = 0) => ({
  cpuMillisUsed: 0,
  memoryBytesUsed: 0,
  load1: 0,
  pressure: {
    cpuSome: { avg10: cpuAvg10, avg60: 0, avg300: 0 },
    memorySome: { avg10: memoryAvg10, avg60: 0, avg300: 0 },
  },
});

test("a node under heavy pressure is taken only when no other fits", () => {
  const drive = new Drive("n1", "n2", "n3");
  const seen = new FakeVolatile();
  seen.report("n1", [], true, { load: load(60) });
  seen.report("n2", [], true, { load: load(0, 90) });
  drive.run(1, "a", "n3", limits(600));
  const small = drive.create(9, "new", limits(100));
  expect(choosePlacement(drive.cluster, small, { seen }).node).toBe("n3");
  expect(choosePlacement(drive.cluster, drive.create(10, "big", limits(600)), { seen }).node).toMatch(
    /n[12]/,
  );
  // The same without pressure goes where most room is.
  expect(choosePlacement(drive.cluster, small).node).toBe("n1");
});

test("pack takes the fullest, by the container's own word or the cluster's", () => {
  const drive = new Drive("n1", "n2", "n3");
  drive.run(1, "a", "n2", limits(500));
  drive.run(2, "b", "n3", limits(950));
  const place = (number: number): string | undefined =>
    choosePlacement(drive.cluster, drive.container(number)).node;
  drive.create(3, "c", { ...limits(100), strategy: PlacementStrategy.PACK });
  drive.create(4, "d", limits(100));
  drive.create(5, "e", { ...limits(100), strategy: PlacementStrategy.SPREAD });
  expect([3, 4, 5].map(place)).toEqual(["n2", "n1", "n1"]);
  drive.must(command("placementDefaultSet", { strategy: PlacementStrategy.PACK }));
  expect([3, 4, 5].map(place)).toEqual(["n2", "n2", "n1"]);
});

test("of equals, the one that has the image", () => {
  const drive = new Drive("n1", "n2");
  const seen = new FakeVolatile();
  seen.report("n1", []);
  seen.report("n2", [], true, { images: [digestOf("a")] });
  const container = drive.create(1, "a", limits(100));
  expect(choosePlacement(drive.cluster, container, { seen }).node).toBe("n2");
  drive.run(2, "b", "n2", limits(100));
  expect(choosePlacement(drive.cluster, container, { seen }).node).toBe("n1");
});
