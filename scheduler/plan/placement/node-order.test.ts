/** The order of nodes against looking at every one of them. */
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { NodeState, type Container } from "../../../proto/gen/godwit/v1/log.ts";
import { ServiceSpec } from "../../../proto/gen/godwit/v1/service.ts";
import { PlacementStrategy } from "../../../proto/gen/godwit/v1/spec.ts";
import { demandOf } from "../../state/fit/demand.ts";
import { filtersFor, firstBlocking } from "../../state/fit/fit.ts";
import type { Cluster } from "../../state/cluster.ts";
import { Drive, idOf } from "../../testing/drive.ts";
import { FakeVolatile } from "../../testing/fake-volatile.ts";
import { digestOf, MIB, sampleImage, sampleNode } from "../../testing/sample.ts";
import { command } from "../command.ts";
import { placeOne, PlannedUse, type PlacementOptions } from "../placement.ts";
import { NodeOrder } from "./node-order.ts";
import { showInOrder, withCandidate, withoutCandidate, type Candidate, type NodeTree } from "./node-tree.ts";
import { costOf, heavyPressure, strategyOf } from "./score.ts";

const anyCandidate = fc
  .record({
    number: fc.nat(40),
    isPressed: fc.boolean(),
    cost: fc.nat(3),
    memoryBytes: fc.nat(3),
    cpuMillis: fc.nat(3),
    pids: fc.nat(3),
    diskBytes: fc.constantFrom(1, Infinity),
  })
  .map(({ number, isPressed, cost, ...free }): Candidate => ({ name: `n${number}`, isPressed, cost, free }));

const rank = (one: Candidate): [boolean, number, string] => [one.isPressed, one.cost, one.name];
const inOrder = (a: Candidate, b: Candidate): number => {
  const [left, right] = [rank(a), rank(b)];
  for (const at of [0, 1, 2] as const) if (left[at] !== right[at]) return left[at] < right[at] ? -1 : 1;
  return 0;
};

test("a tree shows what is in it in order, leaves out only what has no room, and is never changed", () => {
  fc.assert(
    fc.property(fc.array(anyCandidate, { maxLength: 60 }), anyCandidate, (candidates, { free: wanted }) => {
      const present = new Map<string, Candidate>();
      let tree: NodeTree;
      const versions: { tree: NodeTree; names: string[] }[] = [];
      const shown = (of: NodeTree, wants = { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0 }) => {
        const found: Candidate[] = [];
        showInOrder(of, wants, (one) => found.push(one) > 0);
        return found;
      };
      for (const candidate of candidates) {
        const before = present.get(candidate.name);
        if (before !== undefined) tree = withoutCandidate(tree, before);
        present.set(candidate.name, candidate);
        tree = withCandidate(tree, candidate);
        versions.push({ tree, names: [...present.values()].toSorted(inOrder).map(({ name }) => name) });
      }
      for (const version of versions)
        expect(shown(version.tree).map(({ name }) => name)).toEqual(version.names);
      const roomy = shown(tree, wanted);
      for (const one of present.values()) {
        const fits = (["memoryBytes", "cpuMillis", "pids", "diskBytes"] as const).every(
          (of) => wanted[of] === 0 || wanted[of] <= one.free[of],
        );
        if (fits) expect(roomy).toContain(one);
      }
      const half = Math.ceil(present.size / 2);
      const first: string[] = [];
      showInOrder(
        tree,
        { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0 },
        ({ name }) => first.push(name) < half,
      );
      expect(first).toEqual(
        shown(tree)
          .map(({ name }) => name)
          .slice(0, Math.max(half, Math.min(1, present.size))),
      );
      for (const one of present.values()) tree = withoutCandidate(tree, one);
      expect(tree).toBeUndefined();
    }),
  );
});

/** Every node, one by one. */
const scan = (cluster: Cluster, container: Container, options: PlacementOptions): string | undefined => {
  const { avoid, except, planned = new PlannedUse(cluster), seen } = options;
  const demand = demandOf(cluster, container, { planned: planned.containers });
  const filters = filtersFor(demand);
  const crowd = planned.crowds.rankFor(container);
  const found: { name: string; key: readonly number[] }[] = [];
  for (const [name, node] of Object.entries(cluster.state.nodes)) {
    const spot = { name, node, use: planned.of(name), planned: planned.containersOn(name) };
    if (name === except || firstBlocking(filters, demand, spot) !== undefined) continue;
    const report = seen?.nodes.get(name);
    const tier =
      (avoid?.has(name) === true ? 2 : 0) + (heavyPressure(node, report?.report.load) === undefined ? 0 : 1);
    const cost = costOf(
      strategyOf(cluster, container),
      container.spec?.imageDigest ?? "",
      node,
      spot.use,
      report,
    );
    found.push({ name, key: [tier, crowd?.of(name, node) ?? 0, cost] });
  }
  found.sort((a, b) => {
    for (const at of [0, 1, 2]) if (a.key[at] !== b.key[at]) return (a.key[at] ?? 0) - (b.key[at] ?? 0);
    return a.name < b.name ? -1 : 1;
  });
  return found[0]?.name;
};

const imageOf = (letter: string): { image: string; imageDigest: string } => ({
  image: `image-${letter}`,
  imageDigest: digestOf(letter),
});
const withImages = (drive: Drive): void => {
  for (const letter of ["a", "b"])
    drive.must(command("imageAdded", { image: sampleImage(`image-${letter}`, letter) }));
};

const MANY = 90;
const anyNode = fc.oneof(fc.nat(2), fc.nat(MANY));
const nameOf = (number: number): string => `n${number}`;

const anyEvent = fc.oneof(
  fc.record({ kind: fc.constant("join" as const), node: fc.nat(MANY), gib: fc.integer({ min: 1, max: 4 }) }),
  fc.record({ kind: fc.constant("cordon" as const), node: anyNode, to: fc.boolean() }),
  fc.record({
    kind: fc.constant("change" as const),
    node: anyNode,
    to: fc.constantFrom("lost", "ready", "drained", "removed", "emptied"),
  }),
  fc.record({
    kind: fc.constant("report" as const),
    node: fc.nat(MANY),
    images: fc.subarray(["a", "b"]),
    cpuMillisUsed: fc.nat(4_000),
    cpuWaits: fc.constantFrom(0, 0, 0, 20, 90),
  }),
  fc.record({
    kind: fc.constantFrom("place" as const, "plan" as const),
    mib: fc.constantFrom(0, 50, 200, 900, 3_000),
    cpuMillis: fc.constantFrom(0, 100, 2_000),
    isPacked: fc.boolean(),
    image: fc.constantFrom("a", "b"),
    isService: fc.boolean(),
    isApart: fc.boolean(),
    except: fc.nat(MANY),
    avoid: fc.array(fc.nat(MANY), { maxLength: 3 }),
  }),
);

const anySizes = (maxLength: number): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength, size: "max" });

test("the order leads to the same node as looking at all of them, whatever has happened", () => {
  fc.assert(
    fc.property(
      fc.oneof(anySizes(3), anySizes(MANY)),
      fc.array(anyEvent, { maxLength: 60, size: "max" }),
      fc.boolean(),
      (sizes, events, follows) => {
        const drive = new Drive();
        withImages(drive);
        const { cluster } = drive;
        const seen = Object.assign(new FakeVolatile(), { order: new NodeOrder({ follows }) });
        const join = (node: number, gib: number): void =>
          drive.must(
            command("nodeJoined", {
              info: sampleNode(nameOf(node), { memoryBytes: gib * 1024 * MIB }),
              incarnation: "i",
            }),
          );
        const change = ({ node: at, to }: { readonly node: number; readonly to: string }): void => {
          const node = nameOf(at);
          if (to === "lost")
            drive.try(command("nodeStateChanged", { node, state: NodeState.LOST, reason: "silent" }));
          else if (to === "ready")
            drive.try(command("nodeStateChanged", { node, state: NodeState.READY, reason: "" }));
          else if (to === "removed") drive.try(command("nodeRemoved", { node }));
          else if (to === "drained")
            drive.try(
              command("drainStarted", { node, drainId: "d", deadlineMs: 0, parallel: 1, force: false }),
            );
          else
            for (const id of [...(cluster.index.onNode.get(node) ?? [])])
              drive.try(command("containerRemoved", { id }));
        };
        for (const [node, gib] of sizes.entries()) join(node, gib);
        drive.must(
          command("servicesApplied", {
            services: [
              {
                expectedVersion: 0,
                spec: ServiceSpec.fromPartial({
                  name: "web",
                  replicas: 50,
                  template: imageOf("a"),
                }),
              },
            ],
          }),
        );
        let number = 0;
        let planned = new PlannedUse(cluster);
        for (const event of events) {
          if (event.kind !== "plan") planned = new PlannedUse(cluster);
          if (event.kind === "join") join(event.node, event.gib);
          else if ("node" in event && cluster.state.nodes[nameOf(event.node)] === undefined) continue;
          else if (event.kind === "cordon")
            drive.must(command("nodeSchedulableSet", { node: nameOf(event.node), schedulable: event.to }));
          else if (event.kind === "report") {
            cluster.altered.add(nameOf(event.node));
            seen.report(nameOf(event.node), [], true, {
              images: event.images.map(digestOf),
              load: {
                cpuMillisUsed: event.cpuMillisUsed,
                pressure: { cpuSome: { avg10: event.cpuWaits, avg60: 0, avg300: 0 } },
              },
            });
          } else if (event.kind === "change") change(event);
          else {
            number += 1;
            const container = drive.create(number, `c${number}`, {
              limits: { memoryBytes: event.mib * MIB, cpuMillis: event.cpuMillis, pids: 0, diskBytes: 0 },
              strategy: event.isPacked ? PlacementStrategy.PACK : PlacementStrategy.SPREAD,
              ...imageOf(event.image),
              labels: { app: event.isApart ? "lonely" : "any" },
              antiAffinity: event.isApart ? [{ key: "app", value: "lonely" }] : [],
            });
            if (event.isService) container.service = "web";
            const options = {
              planned,
              seen,
              except: nameOf(event.except),
              avoid: new Set(event.avoid.map(nameOf)),
            };
            const node = placeOne(cluster, container, options);
            expect(node).toBe(scan(cluster, container, options));
            expect(placeOne(cluster, container, { ...options, seen: { nodes: seen.nodes } })).toBe(node);
            if (node === undefined) continue;
            if (event.kind === "plan") planned.add(node, container);
            else {
              drive.must(command("allocationPlaced", { containerId: idOf(number), node, epoch: 1 }));
              // A plan is of a cluster that stays as it is.
              planned = new PlannedUse(cluster);
            }
          }
        }
      },
    ),
    { numRuns: 300 },
  );
});

test("a placement looks at few of very many nodes, whether they are empty, full or without the image", () => {
  const drive = new Drive();
  withImages(drive);
  for (let at = 0; at < 2_000; at += 1)
    drive.must(
      command("nodeJoined", {
        info: sampleNode(nameOf(at), { memoryBytes: (at === 1_234 ? 16 : 4) * 1024 * MIB }),
        incarnation: "i",
      }),
    );
  const { cluster } = drive;
  let looked = 0;
  const nodes = new Proxy(cluster.state.nodes, {
    get: (target, name: string) => {
      looked += 1;
      return target[name];
    },
  });
  const counted = { ...cluster, state: { ...cluster.state, nodes } };
  const seen = Object.assign(new FakeVolatile(), { order: new NodeOrder() });
  for (let at = 0; at < 2_000; at += 1)
    seen.report(nameOf(at), [], true, { images: at % 3 === 0 ? [digestOf("a")] : [] });
  const planned = new PlannedUse(counted);
  const place = (number: number, mib: number, letter: string): string | undefined => {
    const container = drive.create(number, `c${number}`, {
      limits: { memoryBytes: mib * MIB, cpuMillis: 0, pids: 0, diskBytes: 0 },
      ...imageOf(letter),
    });
    looked = 0;
    return placeOne(counted, container, { planned, seen });
  };
  place(1, 10, "a");
  for (const [number, letter] of ["a", "b"].entries()) {
    expect(place(number + 2, 100, letter)).toBeDefined();
    expect(looked).toBeLessThan(50);
  }
  expect(place(9, 8_000, "a")).toBe("n1234");
  expect(looked).toBeLessThan(50);
});
