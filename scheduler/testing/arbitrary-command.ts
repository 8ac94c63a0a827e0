/** Commands at random over a few names, so that they meet. */
import * as fc from "fast-check";
import { AllocationState, DesiredState, NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { command } from "../plan/command.ts";
import { idOf, type Drive } from "./drive.ts";
import { digestOf, memoryLimit, sampleImage, sampleNode, sampleSpec } from "./sample.ts";

const node = fc.constantFrom("n1", "n2", "n3");
const id = fc.integer({ min: 1, max: 4 }).map(idOf);
const migration = fc.integer({ min: 101, max: 106 }).map(idOf);
const epoch = fc.integer({ min: 1, max: 4 });
const make =
  <C extends Parameters<typeof command>[0]>($case: C) =>
  (value: Parameters<typeof command<C>>[1]): Command =>
    command($case, value);
export const anyCommand = fc.oneof(
  {
    weight: 2,
    arbitrary: fc
      .record({ info: node.map((name) => sampleNode(name)), incarnation: fc.constantFrom("a", "b") })
      .map(make("nodeJoined")),
  },
  fc
    .record({ node, state: fc.constantFrom(NodeState.READY, NodeState.LOST), reason: fc.constant("") })
    .map(make("nodeStateChanged")),
  fc.record({ node, schedulable: fc.boolean() }).map(make("nodeSchedulableSet")),
  fc.record({ node }).map(make("nodeRemoved")),
  fc
    .record({
      node,
      drainId: fc.constantFrom("d1", "d2"),
      deadlineMs: fc.constant(0),
      parallel: fc.constant(1),
      force: fc.boolean(),
    })
    .map(make("drainStarted")),
  fc
    .record({ node, drainId: fc.constantFrom("d1", "d2"), outcome: fc.constantFrom("drained", "") })
    .map(make("drainEnded")),
  fc
    .record({
      image: fc.constantFrom(sampleImage("redis", "a"), sampleImage("redis", "b"), sampleImage("web", "a")),
    })
    .map(make("imageAdded")),
  fc.record({ name: fc.constantFrom("redis", "web", digestOf("a")) }).map(make("imageRemoved")),
  {
    weight: 3,
    arbitrary: fc
      .record({
        id,
        spec: fc
          .record({
            name: fc.constantFrom("a", "b", "c"),
            memoryMib: fc.constantFrom(0, 400),
            digest: fc.constantFrom("a", "b"),
          })
          .map(({ name, memoryMib, digest }) =>
            sampleSpec(name, { imageDigest: digestOf(digest), ...memoryLimit(memoryMib) }),
          ),
      })
      .map(make("containerCreated")),
  },
  fc
    .record({
      id,
      desired: fc.constantFrom(DesiredState.RUNNING, DesiredState.STOPPED),
      restartGeneration: fc.integer({ min: 0, max: 2 }),
    })
    .map(make("containerDesiredSet")),
  fc.record({ id, force: fc.boolean() }).map(make("containerRemoveRequested")),
  fc.record({ id }).map(make("containerRemoved")),
  { weight: 3, arbitrary: fc.record({ containerId: id, node, epoch }).map(make("allocationPlaced")) },
  {
    weight: 4,
    arbitrary: fc
      .record({
        containerId: id,
        node,
        epoch,
        state: fc.constantFrom(AllocationState.RUNNING, AllocationState.EXITED),
        exitCode: fc.constant(0),
        restarts: fc.constant(0),
        message: fc.constant(""),
      })
      .map(make("allocationObserved")),
  },
  {
    weight: 5,
    arbitrary: fc
      .record({
        id: migration,
        containerId: id,
        from: node,
        to: node,
        epoch,
        mode: fc.constant(MigrationMode.AUTO),
        blackoutBudgetMs: fc.constant(0),
        drainId: fc.constantFrom("", "d1"),
        reason: fc.constant("operator"),
        bandwidthBytesPerSecond: fc.constantFrom(0, 1_000_000),
      })
      .map(make("migrationStarted")),
  },
  { weight: 3, arbitrary: fc.record({ id: migration }).map(make("migrationSwitched")) },
  fc
    .record({ node, key: fc.constantFrom(Buffer.alloc(32, 1), Buffer.alloc(32, 2), Buffer.alloc(3)) })
    .map(make("nodeKeyTrusted")),
  fc.record({ id: migration, reason: fc.constant("") }).map(make("migrationAborted")),
  fc.record({ id: migration, reason: fc.constant("") }).map(make("migrationReturned")),
  fc.record({ id: migration, figures: fc.constant(undefined) }).map(make("migrationFinished")),
  fc.record({ id: migration }).map(make("migrationCancelRequested")),
);

/** With what only a well informed sender knows put right, or hardly any command would apply. */
export const fitting = (drive: Drive, { command: raw }: Command): Command => {
  if (raw === undefined) return { command: raw };
  const [moving] = drive.cluster.index.moving;
  if (/^migration(?!Started)/.test(raw.$case) && moving !== undefined)
    return { command: { ...raw, value: { ...raw.value, id: moving } } as typeof raw };
  if (!("containerId" in raw.value)) return { command: raw };
  const { node = "", epoch: now = 0 } =
    drive.cluster.state.containers[raw.value.containerId]?.allocation ?? {};
  if (raw.$case === "allocationPlaced") return command(raw.$case, { ...raw.value, epoch: now + 1 });
  if (raw.$case === "migrationStarted")
    return command(raw.$case, { ...raw.value, from: node, epoch: now + 1 });
  return raw.$case === "allocationObserved"
    ? command(raw.$case, { ...raw.value, node, epoch: now })
    : { command: raw };
};
