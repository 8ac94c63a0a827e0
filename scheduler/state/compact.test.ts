import * as fc from "fast-check";
import { expect, test } from "vitest";
import { Container, DesiredState, State } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, MigrationPolicy, PlacementStrategy } from "../../proto/gen/godwit/v1/spec.ts";
import { addressOf, macOf } from "../model/network.ts";
import { clusterOf } from "./cluster.ts";
import { CompactContainer } from "./compact-container.ts";
import { Templates } from "./compact-spec.ts";
import { decodeCluster, decodeFirstFormat } from "./decode.ts";
import { canonicalPieces, firstFormatPieces } from "./hash.ts";

const word = fc.string({ maxLength: 4 });
const words = fc.dictionary(word, word, { maxKeys: 3 });
const anySpec = fc
  .record({
    name: word,
    image: word,
    imageDigest: word,
    command: fc.array(word, { maxLength: 2 }),
    env: words,
    labels: words,
    workingDir: word,
    user: word,
    limits: fc.constantFrom(undefined, { memoryBytes: 1, cpuMillis: 2, pids: 3, diskBytes: 4 }),
    migration: fc.constantFrom(...Object.values(MigrationPolicy)),
    strategy: fc.constantFrom(...Object.values(PlacementStrategy)),
    node: word,
    noCures: fc.boolean(),
    blackoutBudgetMs: fc.nat(9),
    stopGraceSeconds: fc.nat(9),
    constraints: fc.array(fc.record({ key: word, value: word, unequal: fc.boolean() }), { maxLength: 1 }),
    affinity: fc.array(fc.record({ key: word, value: word }), { maxLength: 1 }),
    antiAffinity: fc.array(fc.record({ key: word, value: word }), { maxLength: 1 }),
    ports: fc.array(fc.record({ hostPort: fc.nat(9), containerPort: fc.nat(9), protocol: word }), {
      maxLength: 1,
    }),
    project: word,
    priority: fc.integer({ min: -2, max: 2 }),
    checkpointEverySeconds: fc.nat(3),
    stopSignal: word,
  })
  .map((spec) => ContainerSpec.fromPartial(spec));
const anyContainer = fc
  .record({
    spec: anySpec,
    host: fc.integer({ min: 2, max: 1_000_000 }),
    desired: fc.constantFrom(...Object.values(DesiredState)),
    restartGeneration: fc.nat(2),
    removing: fc.boolean(),
    removeForce: fc.boolean(),
    createdAtMs: fc.nat(),
    migrationId: word,
    placementFailure: word,
    service: word,
    serviceRevision: fc.nat(3),
    retiring: fc.boolean(),
    origins: fc.option(fc.record({ nodes: fc.array(word, { maxLength: 2 }) }), { nil: undefined }),
    preemption: fc.option(fc.record({ forName: word, endedAtMs: fc.nat() }), { nil: undefined }),
    releasedEpoch: fc.nat(3),
    nominatedNode: word,
  })
  .map(({ host, ...rest }) =>
    Container.fromPartial({ id: `c${host}`, ...rest, address: addressOf(host), mac: macOf(host) }),
  );

const joined = (pieces: Iterable<Uint8Array>): Buffer => Buffer.concat([...pieces]);
const field = (message: object, key: string): unknown => (message as Record<string, unknown>)[key];

test("a compact specification reads like the message that it was made from", () => {
  fc.assert(
    fc.property(anySpec, (spec) => {
      const compact = new Templates().compact(spec);
      for (const key of Object.keys(spec)) expect(field(compact, key)).toEqual(field(spec, key));
      expect(ContainerSpec.fromPartial(compact)).toEqual(spec);
    }),
  );
});

test("a compact container reads, and is encoded, like the message", () => {
  fc.assert(
    fc.property(anyContainer, (container) => {
      const compact = clusterOf(State.fromPartial({ containers: { [container.id]: container } })).state
        .containers[container.id];
      expect(Container.fromPartial(compact ?? {})).toEqual(container);
      expect(compact).toBeInstanceOf(CompactContainer);
    }),
  );
});

test("containers come back from a snapshot of either format as they were, and share what they shared", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(anyContainer, { selector: ({ id }) => id, maxLength: 5 }),
      anySpec,
      (given, shared) => {
        const own = given.map((one) => [one.id, one] as const);
        const alike = given.map((one) => {
          const id = `${one.id}-`;
          return [id, { ...one, id, spec: { ...shared, name: id } }] as const;
        });
        const containers = Object.fromEntries([...own, ...alike]);
        const cluster = clusterOf(State.fromPartial({ containers, epoch: 3, lastSequence: 9 }));
        const second = decodeCluster(joined(canonicalPieces(cluster)));
        const first = decodeFirstFormat(joined(firstFormatPieces(cluster)));
        for (const { index, state } of [first, second]) {
          expect(State.fromPartial(state)).toEqual(State.fromPartial(cluster.state));
          expect([...index.templates.specs()]).toHaveLength([...cluster.index.templates.specs()].length);
        }
      },
    ),
  );
});

test("a compact container takes every change of an exceptional field, and its taking back", () => {
  fc.assert(
    fc.property(anyContainer, anyContainer, (before, after) => {
      const compact = CompactContainer.from(before, 2);
      for (const round of [after, before])
        for (const key of [
          "restartGeneration",
          "removing",
          "removeForce",
          "migrationId",
          "placementFailure",
          "retiring",
          "origins",
          "preemption",
          "releasedEpoch",
          "nominatedNode",
        ] as const)
          Object.assign(compact, { [key]: round[key] });
      expect(Container.fromPartial(compact)).toEqual(
        Container.fromPartial({ ...before, address: addressOf(2), mac: macOf(2) }),
      );
    }),
  );
});

test("specifications that differ in their name alone share the rest, for as long as somebody has it", () => {
  const templates = new Templates();
  const [a, b] = ["a", "b"].map((name) =>
    templates.compact(ContainerSpec.fromPartial({ name, command: ["sh"], env: { x: "1" } })),
  );
  templates.count(a, 1);
  const c = templates.compact(ContainerSpec.fromPartial({ name: "c", command: ["sh"], env: { x: "1" } }));
  expect(c.command).toBe(a?.command);
  expect(c.name).toBe("c");
  templates.count(b, 1);
  templates.count(a, -1);
  expect([...templates.specs()]).toHaveLength(1);
  templates.count(b, -1);
  expect([...templates.specs()]).toHaveLength(0);
  expect(() => Object.assign(c, { image: "other" })).toThrow(/getter/);
  expect(() => c.command.push("x")).toThrow(/not extensible/);
});
