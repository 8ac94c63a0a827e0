/** What people ask for: whatever the scheduler's public methods offer, drawn from the seed. */
import { AllocationState, MigrationState, type Container } from "../../proto/gen/godwit/v1/log.ts";
import { OnFailure, ServiceSpec, UpdateOrder } from "../../proto/gen/godwit/v1/service.ts";
import {
  ContainerSpec,
  FailoverPolicy,
  Image,
  MigrationMode,
  MigrationPolicy,
  PreemptionPolicy,
  RestartPolicy,
} from "../../proto/gen/godwit/v1/spec.ts";
import type { Scheduler } from "../../scheduler/mod.ts";
import { MIB, type SimCluster } from "./cluster.ts";
import type { Random } from "./random.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const LAYER = `sha256:${"c".repeat(64)}`;
const NAMES = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] as const;
const SERVICES = ["web", "db"] as const;
const PROJECTS = ["", "blue"] as const;
const KINDS = ["front", "back"] as const;
/** One who has sworn that a host is off keeps it off for as long as his word may still reach the log. */
const KEPT_OFF_MS = 40_000;

export const image = (): Image =>
  Image.fromPartial({
    name: "redis",
    digest: DIGEST,
    layers: [{ diffId: LAYER, object: "c", sizeBytes: 10 }],
    sizeBytes: 10,
  });

/** What has been answered, and has to be so in the end. */
export interface Promised {
  readonly what: string;
  readonly identity: string;
}

export interface Drawing {
  readonly cluster: SimCluster;
  readonly random: Random;
}

/** One request, which may be made again where its answer was lost. */
export type Call = (scheduler: Scheduler) => Promise<Promised | undefined>;
/** Undefined: there is nothing to ask for. */
export type Draw = (scheduler: Scheduler, from: Drawing) => Call | undefined;

export const silent =
  (call: (scheduler: Scheduler) => Promise<unknown>): Call =>
  async (scheduler) => {
    await call(scheduler);
    return undefined;
  };

const label = (random: Random) => ({ key: "kind", value: random.pick(KINDS) });

const spec = (name: string, { random, cluster }: Drawing): ContainerSpec =>
  ContainerSpec.fromPartial({
    name,
    image: "redis",
    limits: {
      memoryBytes: random.pick([0, 100, 300, 500]) * MIB,
      cpuMillis: random.pick([0, 0, 500, 1_000]),
      pids: 0,
      diskBytes: 0,
    },
    labels: random.chance(0.5) ? { kind: random.pick(KINDS) } : {},
    antiAffinity: random.chance(0.15) ? [label(random)] : [],
    affinity: random.chance(0.1) ? [label(random)] : [],
    constraints: random.chance(0.1)
      ? [{ key: "zone", value: random.pick(["a", "b"]), unequal: random.chance(0.5) }]
      : [],
    ports: random.chance(0.1) ? [{ hostPort: 8_080, containerPort: 80 }] : [],
    project: random.pick(PROJECTS),
    priority: random.chance(0.2) ? random.pick([-5, 10]) : 0,
    preemption: random.pick([
      PreemptionPolicy.UNSPECIFIED,
      PreemptionPolicy.UNSPECIFIED,
      PreemptionPolicy.MOVE,
      PreemptionPolicy.STOP,
      PreemptionPolicy.NEVER,
    ]),
    failover: random.pick([FailoverPolicy.UNSPECIFIED, FailoverPolicy.AUTO, FailoverPolicy.NEVER]),
    restart: random.pick([
      RestartPolicy.ALWAYS,
      RestartPolicy.ALWAYS,
      RestartPolicy.ALWAYS,
      RestartPolicy.ON_FAILURE,
      RestartPolicy.NEVER,
    ]),
    migration: random.pick([
      MigrationPolicy.UNSPECIFIED,
      MigrationPolicy.UNSPECIFIED,
      MigrationPolicy.LIVE,
      MigrationPolicy.LIVE,
      MigrationPolicy.LIVE,
      MigrationPolicy.COLD,
      MigrationPolicy.NEVER,
    ]),
    node: random.chance(0.2) ? random.pick(cluster.machines).name : "",
  });

const service = (from: Drawing): ServiceSpec => {
  const { random } = from;
  return ServiceSpec.fromPartial({
    name: random.pick(SERVICES),
    replicas: random.pick([0, 1, 2, 3]),
    template: {
      ...spec("", from),
      node: "",
      restart: RestartPolicy.ALWAYS,
      env: { version: String(random.below(3)) },
    },
    spread: random.chance(0.3) ? [{ label: "", maxSkew: random.pick([0, 1]) }] : [],
    update: {
      batch: random.pick([0, 1, 2]),
      pauseMs: random.pick([0, 500]),
      order: random.pick([UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST]),
      onFailure: random.pick([OnFailure.ROLLBACK, OnFailure.PAUSE]),
      monitorMs: random.pick([0, 300]),
      timeoutMs: random.pick([0, 5_000]),
    },
    disruption: { limit: { $case: "maxUnavailable", value: random.pick([0, 1, 2]) } },
  });
};

const containers = (scheduler: Scheduler): Container[] =>
  Object.values(scheduler.state().containers) as Container[];

export const DRAWS: Readonly<Record<string, readonly [weight: number, draw: Draw]>> = {
  run: [
    6,
    (_, from) => {
      const wanted = spec(from.random.pick(NAMES), from);
      return async (scheduler) => {
        const { id } = await scheduler.createContainer(wanted);
        return { what: "run", identity: `containerCreated ${id}` };
      };
    },
  ],
  desire: [
    3,
    (asked, { random }) => {
      const container = random.maybe(containers(asked));
      if (container === undefined) return undefined;
      const action = random.pick(["start", "start", "start", "stop", "restart"] as const);
      return silent((scheduler) => scheduler.setDesired(container.id, action));
    },
  ],
  remove: [
    1,
    (asked, { random }) => {
      const container = random.maybe(containers(asked));
      if (container === undefined) return undefined;
      const force = random.chance(0.5);
      return silent((scheduler) => scheduler.removeContainer(container.id, force));
    },
  ],
  move: [
    8,
    (asked, { random, cluster }) => {
      const all = containers(asked);
      const movable = all.filter(
        ({ allocation, migrationId }) => allocation?.state === AllocationState.RUNNING && migrationId === "",
      );
      const container = random.maybe(random.chance(0.8) ? movable : all);
      if (container === undefined) return undefined;
      const request = {
        containerId: container.id,
        mode: random.pick([
          MigrationMode.AUTO,
          MigrationMode.AUTO,
          MigrationMode.CHECKPOINT,
          MigrationMode.COLD,
        ]),
        blackoutBudgetMs: 0,
        reason: "operator",
        ...(random.chance(0.5) ? { to: random.pick(cluster.machines).name } : {}),
      };
      return async (scheduler) => {
        const { id } = await scheduler.startMigration(request);
        return { what: "move", identity: `migrationStarted ${id}` };
      };
    },
  ],
  cancelMove: [
    1,
    (asked, { random }) => {
      const running = Object.values(asked.state().migrations).filter(
        ({ state }) => state === MigrationState.RUNNING,
      );
      const migration = random.maybe(running);
      return migration === undefined
        ? undefined
        : silent((scheduler) => scheduler.cancelMigration(migration.id));
    },
  ],
  cordon: [
    2,
    (_, { random, cluster }) => {
      const [{ name }, schedulable] = [random.pick(cluster.machines), random.chance(0.6)];
      return silent((scheduler) => scheduler.setSchedulable(name, schedulable));
    },
  ],
  drain: [
    2,
    (_, { random, cluster }) => {
      const drain = {
        node: random.pick(cluster.machines).name,
        deadlineMs: random.pick([0, 2_000, 20_000]),
        parallel: random.pick([1, 2, 5]),
        force: random.chance(0.3),
        evacuate: random.chance(0.4),
      };
      return silent((scheduler) => scheduler.startDrain(drain));
    },
  ],
  cancelDrain: [
    1,
    (_, { random, cluster }) => {
      const { name } = random.pick(cluster.machines);
      return silent((scheduler) => scheduler.cancelDrain(name));
    },
  ],
  removeNode: [
    1,
    (_, { random, cluster }) => {
      const machine = random.pick(cluster.machines);
      const isOff = !machine.isUp;
      if (isOff) cluster.keepOff(machine, KEPT_OFF_MS);
      return silent((scheduler) => scheduler.removeNode(machine.name, isOff));
    },
  ],
  giveBack: [
    1,
    (_, { random, cluster }) => {
      const { name } = random.pick(cluster.machines);
      const isCancelled = random.chance(0.2);
      return silent((scheduler) =>
        isCancelled
          ? scheduler.cancelReturn(name)
          : scheduler.startReturn({ node: name, parallel: 0, perLink: 0 }),
      );
    },
  ],
  service: [
    4,
    (asked, from) => {
      const { random } = from;
      const name = random.maybe(Object.keys(asked.state().services));
      const what = random.pick(["apply", "apply", "scale", "rollBack", "remove"] as const);
      if (what === "apply" || name === undefined) {
        const wanted = service(from);
        return silent((scheduler) => scheduler.services.apply([{ spec: wanted }]));
      }
      const replicas = random.below(4);
      return silent((scheduler) =>
        what === "scale"
          ? scheduler.services.scale(name, replicas)
          : what === "rollBack"
            ? scheduler.services.rollBack(name, 0)
            : scheduler.services.remove(name),
      );
    },
  ],
  label: [
    1,
    (_, { random, cluster }) => {
      const [{ name }, zone] = [random.pick(cluster.machines), random.pick(["a", "b"])];
      return silent((scheduler) => scheduler.placement.setNodeLabels(name, { zone }, []));
    },
  ],
  project: [
    0.5,
    (_, { random }) => {
      const memoryBytes = random.pick([0, 600, 1_000]) * MIB;
      return silent((scheduler) => scheduler.placement.setProject("blue", { memoryBytes }));
    },
  ],
  failover: [
    0.3,
    (_, { random }) => {
      const enabled = random.chance(0.7);
      return silent((scheduler) => scheduler.setFailover(enabled));
    },
  ],
};
