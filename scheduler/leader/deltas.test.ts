import * as fc from "fast-check";
import { expect, test } from "vitest";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { anyCommand, fitting } from "../testing/arbitrary-command.ts";
import { DeltaWorld } from "../testing/delta-world.ts";
import { idOf } from "../testing/drive.ts";

const node = fc.constantFrom("n1", "n2", "n3");
const container = fc.integer({ min: 1, max: 7 }).map(idOf);
const held = fc.record({
  epoch: fc.integer({ min: 1, max: 4 }),
  state: fc.constantFrom(AllocationState.RUNNING, AllocationState.EXITED, AllocationState.FROZEN),
  exitCode: fc.integer({ min: 0, max: 1 }),
  usec: fc.integer({ min: 0, max: 1_000 }),
});

const KINDS = ["full", "delta", "gaps", "parts", "fullWanted"] as const;

type Event = (world: DeltaWorld) => void | Promise<void>;
const anyEvent = fc.oneof(
  {
    weight: 6,
    arbitrary: anyCommand.map(
      (one): Event =>
        (world) =>
          world.command(fitting(world.drive, one)),
    ),
  },
  {
    weight: 4,
    arbitrary: node.map(
      (name): Event =>
        (world) =>
          world.report(name),
    ),
  },
  { weight: 4, arbitrary: fc.constant<Event>((world) => world.look()) },
  {
    weight: 10,
    arbitrary: fc.tuple(fc.nat(20), fc.constantFrom("keep", "keep", "keep", "lose", "repeat")).map(
      ([at, what]): Event =>
        (world) =>
          world.deliver(at, what),
    ),
  },
  {
    weight: 4,
    arbitrary: fc
      .tuple(node, container, fc.option(held, { nil: undefined }))
      .map(([name, id, one]): Event => (world) => {
        // By the epoch that the log has given, mostly.
        const epoch = world.drive.cluster.state.containers[id]?.allocation?.epoch ?? one?.epoch ?? 1;
        world.see(
          name,
          id,
          one === undefined ? undefined : { ...one, epoch: one.usec % 4 === 0 ? one.epoch : epoch },
        );
      }),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(node, fc.constantFrom(MigrationPhase.READY, MigrationPhase.RESTORED, MigrationPhase.RUNNING))
      .map(([name, phase]): Event => (world) => {
        const [id] = world.drive.cluster.index.moving;
        if (id !== undefined) world.migrate(name, id, phase);
      }),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(node, fc.boolean()).map(([name, has]): Event => (world) => {
      const agent = world.agent(name);
      agent.images = has ? ["sha256:a"] : [];
      if (has) agent.kept.add(idOf(201));
      else agent.kept.clear();
    }),
  },
  {
    weight: 1,
    arbitrary: node.map(
      (name): Event =>
        (world) =>
          world.restart(name),
    ),
  },
  { weight: 1, arbitrary: fc.constant<Event>((world) => world.elect()) },
  {
    weight: 1,
    arbitrary: fc.nat(2_000).map(
      (ms): Event =>
        (world) =>
          void (world.nowMs += ms),
    ),
  },
);

test("whatever is lost, doubled or reordered, both sides take in what the other one had, and end up with all of it", async () => {
  const counts = { full: 0, delta: 0, gaps: 0, parts: 0, fullWanted: 0 };
  await fc.assert(
    fc.asyncProperty(
      fc.array(anyEvent, { minLength: 1, maxLength: 120, size: "max" }),
      fc.constantFrom(1_048_576, 1_700),
      async (events, maxPayloadBytes) => {
        const world = new DeltaWorld(maxPayloadBytes);
        for (const number of [1, 2, 3, 4, 5]) world.drive.run(number, `c${number}`, `n${(number % 3) + 1}`);
        await world.quiesce();
        for (const event of events) {
          await event(world);
          expect(world.faults).toEqual([]);
        }
        await world.quiesce();
        expect(world.faults).toEqual([]);
        for (const key of KINDS) counts[key] += world.counts[key];
      },
    ),
    { numRuns: 300 },
  );
  // Or it would say nothing.
  for (const kind of ["full", "delta", "parts", "fullWanted"] as const)
    expect(counts[kind]).toBeGreaterThan(20);
}, 120_000);
