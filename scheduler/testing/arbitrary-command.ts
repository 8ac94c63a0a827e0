/** Commands at random over a few names, so that they meet. */
import * as fc from "fast-check";
import { AllocationState, DesiredState, NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { BalanceForecast, HealthState, MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { balanceCommands } from "./arbitrary-balance.ts";
import { command } from "../plan/command.ts";
import { nextEpoch } from "../state/cluster.ts";
import { anyRules, fitPlacement, placementCommands } from "./arbitrary-placement.ts";
import { idOf, type Drive } from "./drive.ts";
import { digestOf, memoryLimit, sampleImage, sampleNode, sampleSpec } from "./sample.ts";

const node = fc.constantFrom("n1", "n2", "n3");
const id = fc.integer({ min: 1, max: 7 }).map(idOf);
const migration = fc.integer({ min: 101, max: 106 }).map(idOf);
const checkpoint = fc.integer({ min: 201, max: 204 }).map(idOf);
const baseCheckpoint = fc.oneof(fc.constant(""), checkpoint);
const epoch = fc.integer({ min: 1, max: 4 });
const make =
  <C extends Parameters<typeof command>[0]>($case: C) =>
  (value: Parameters<typeof command<C>>[1]): Command =>
    command($case, value);
const service = fc.constantFrom("s", "t");
const revision = fc.integer({ min: 1, max: 3 });
const serviceCommands = [
  {
    weight: 3,
    arbitrary: fc
      .array(
        fc.record({
          spec: fc
            .record({
              name: service,
              replicas: fc.integer({ min: 0, max: 3 }),
              image: fc.constantFrom("redis", "web"),
              digest: fc.constantFrom("a", "b"),
              label: fc.constantFrom("x", "y"),
            })
            .map(({ digest, image, label, name, replicas }) =>
              ServiceSpec.fromPartial({
                name,
                replicas,
                template: { image, imageDigest: digestOf(digest), labels: { label } },
              }),
            ),
          expectedVersion: fc.integer({ min: 0, max: 3 }),
        }),
        { minLength: 1, maxLength: 2 },
      )
      .map((services) => command("servicesApplied", { services })),
  },
  fc.record({ name: service, replicas: fc.integer({ min: 0, max: 4 }) }).map(make("serviceScaled")),
  fc.record({ name: service, revision }).map(make("serviceRolledBack")),
  fc
    .record({ name: service, revision, failure: fc.constantFrom("", "ill") })
    .map(make("serviceRolloutEnded")),
  fc.record({ name: service }).map(make("serviceRemoveRequested")),
  fc.record({ name: service }).map(make("serviceRemoved")),
  {
    weight: 3,
    arbitrary: fc
      .record({ id, service, revision, name: fc.constantFrom("s-1", "s-2", "a") })
      .map(make("serviceContainerCreated")),
  },
  fc.record({ id }).map(make("serviceContainerRetired")),
  fc.record({ id, revision }).map(make("serviceContainerAmended")),
];

const plainCommand = fc.oneof(
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
  fc.record({ node, fenceMs: fc.constantFrom(0, 1_000), fault: fc.constant("") }).map(make("nodeFenceSet")),
  { weight: 2, arbitrary: fc.record({ node }).map(make("nodeFenced")) },
  fc.record({ enabled: fc.boolean() }).map(make("failoverSet")),
  {
    weight: 2,
    arbitrary: fc
      .record({
        id: checkpoint,
        containerId: id,
        epoch,
        keepers: fc.constantFrom<string[]>(["n1", "n2"], ["n2", "n3"], ["n3", "n1"], []),
        key: fc.constantFrom(Buffer.alloc(32, 1), Buffer.alloc(3)),
        reason: fc.constantFrom("operator", "periodic"),
        baseId: baseCheckpoint,
      })
      .map(make("checkpointStarted")),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({
        id: checkpoint,
        sizeBytes: fc.constant(9),
        memoryBytes: fc.constant(8),
        blackoutMs: fc.constant(7),
        baseId: baseCheckpoint,
        wholeBytes: fc.constant(10),
      })
      .map(make("checkpointStored")),
  },
  fc.record({ id: checkpoint, error: fc.constant("lost") }).map(make("checkpointFailed")),
  fc.record({ id: checkpoint }).map(make("checkpointRemoved")),
  {
    weight: 2,
    arbitrary: fc
      .record({ containerId: id, checkpointId: checkpoint, node, epoch })
      .map(make("containerRestored")),
  },
  fc
    .record({
      node,
      drainId: fc.constantFrom("d1", "d2"),
      deadlineMs: fc.constant(0),
      parallel: fc.constant(1),
      force: fc.boolean(),
      evacuate: fc.boolean(),
    })
    .map(make("drainStarted")),
  fc
    .record({
      node,
      returnId: fc.constantFrom("r1", "r2"),
      parallel: fc.constant(1),
      perLink: fc.constant(1),
    })
    .map(make("returnStarted")),
  fc
    .record({
      node,
      returnId: fc.constantFrom("r1", "r2"),
      outcome: fc.constantFrom("returned", "cancelled", ""),
    })
    .map(make("returnEnded")),
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
    weight: 8,
    arbitrary: fc
      .record({
        id,
        spec: fc
          .record({
            name: fc.constantFrom("a", "b", "c", "d", "e", "f", "g"),
            memoryMib: fc.constantFrom(0, 400),
            digest: fc.constantFrom("a", "b"),
            rules: anyRules,
          })
          .map(({ name, memoryMib, digest, rules }) =>
            sampleSpec(name, { imageDigest: digestOf(digest), ...memoryLimit(memoryMib), ...rules }),
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
  { weight: 10, arbitrary: fc.record({ containerId: id, node, epoch }).map(make("allocationPlaced")) },
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
        health: fc.constantFrom(HealthState.UNSPECIFIED, HealthState.HEALTHY, HealthState.UNHEALTHY),
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
        mode: fc.constantFrom(MigrationMode.AUTO, MigrationMode.POSTCOPY),
        blackoutBudgetMs: fc.constant(0),
        drainId: fc.constantFrom("", "d1"),
        reason: fc.constant("operator"),
        bandwidthBytesPerSecond: fc.constantFrom(0, 1_000_000),
        balance: fc.constantFrom(undefined, BalanceForecast.fromPartial({ predictedGain: 0.2 })),
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
  fc
    .record({ id: migration, reason: fc.constant("gone"), figures: fc.constant(undefined) })
    .map(make("migrationLost")),
  fc.record({ id: migration }).map(make("migrationCancelRequested")),
  ...balanceCommands(migration),
  ...serviceCommands,
  ...placementCommands,
);

/** Some belong to one of a few requests. */
export const anyCommand = fc
  .tuple(fc.constantFrom(undefined, undefined, undefined, idOf(1), idOf(901), idOf(902)), plainCommand)
  .map(([requestId, one]): Command => (requestId === undefined ? one : { ...one, requestId }));

/** With what only a well informed sender knows put right, or hardly any command would apply. */
export const fitting = (drive: Drive, given: Command): Command =>
  given.requestId === undefined ? fit(drive, given) : { ...fit(drive, given), requestId: given.requestId };

const fit = (drive: Drive, { command: raw }: Command): Command => {
  if (raw === undefined) return { command: raw };
  const [moving] = drive.cluster.index.moving;
  if (/^migration(?!Started)/.test(raw.$case) && moving !== undefined)
    return { command: { ...raw, value: { ...raw.value, id: moving } } as typeof raw };
  const { services } = drive.cluster.state;
  if (raw.$case === "servicesApplied")
    return command(raw.$case, {
      services: raw.value.services.map((one) => ({
        ...one,
        expectedVersion: services[one.spec?.name ?? ""]?.version ?? 0,
      })),
    });
  if (raw.$case === "serviceContainerCreated" || raw.$case === "serviceRolloutEnded") {
    const name = raw.$case === "serviceRolloutEnded" ? raw.value.name : raw.value.service;
    const revision = services[name]?.revision ?? 1;
    return { command: { ...raw, value: { ...raw.value, revision } } as typeof raw };
  }
  const { checkpoints } = drive.cluster.state;
  if (raw.$case === "checkpointStored") {
    const baseId = raw.value.baseId === "" ? "" : (checkpoints[raw.value.id]?.baseId ?? "");
    return command(raw.$case, { ...raw.value, baseId });
  }
  if (!("containerId" in raw.value)) return { command: raw };
  const { node = "", epoch: now = 0 } =
    drive.cluster.state.containers[raw.value.containerId]?.allocation ?? {};
  if (raw.$case === "checkpointStarted") {
    const base = checkpoints[raw.value.baseId];
    const keepers = base?.keepers ?? raw.value.keepers;
    return command(raw.$case, { ...raw.value, epoch: now, keepers });
  }
  if (raw.$case === "containerRestored") return command(raw.$case, { ...raw.value, epoch: now + 1 });
  const placement = fitPlacement(drive, { command: raw });
  if (placement !== undefined) return placement;
  if (raw.$case === "allocationPlaced") {
    const { unplaced } = drive.cluster.index;
    const [first = ""] = unplaced;
    const containerId = unplaced.has(raw.value.containerId) ? raw.value.containerId : first;
    const container = drive.cluster.state.containers[containerId];
    const epoch = container === undefined ? 1 : nextEpoch(container);
    return command(raw.$case, { ...raw.value, containerId, epoch });
  }
  if (raw.$case === "migrationStarted")
    return command(raw.$case, { ...raw.value, from: node, epoch: now + 1 });
  return raw.$case === "allocationObserved"
    ? command(raw.$case, { ...raw.value, node, epoch: now })
    : { command: raw };
};
