/** What people ask for: whatever the scheduler's public methods offer, drawn from the seed. */
import {
  AllocationState,
  DesiredState,
  MigrationState,
  type Container,
} from "../../proto/gen/godwit/v1/log.ts";
import { OnFailure, ServiceSpec, UpdateOrder } from "../../proto/gen/godwit/v1/service.ts";
import {
  BalancePolicy,
  BalanceSettings,
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
/** Of the balancer, that are set. */
const SETTINGS = [
  "policy",
  "threshold",
  "roundMs",
  "holdRounds",
  "smoothingMs",
  "settleMs",
  "coolDownMs",
  "parallel",
  "gainOverCost",
  "misses",
] as const;
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
      MigrationPolicy.LIVE,
      MigrationPolicy.COLD,
      MigrationPolicy.NEVER,
    ]),
    node: random.chance(0.1) ? random.pick(cluster.machines).name : "",
    checkpointEverySeconds: random.chance(0.2) ? random.pick([5, 10, 30]) : 0,
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
    (asked, from) => {
      const taken = new Set(containers(asked).map((one) => one.spec?.name ?? ""));
      const free = NAMES.filter((name) => !taken.has(name));
      // Who asks for one that is there already is told so, and learns nothing new each time.
      const name = from.random.chance(0.95) ? from.random.maybe(free) : from.random.pick(NAMES);
      if (name === undefined) return undefined;
      const wanted = spec(name, from);
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
        ({ allocation, migrationId, spec }) =>
          allocation?.state === AllocationState.RUNNING &&
          migrationId === "" &&
          spec?.migration !== MigrationPolicy.NEVER,
      );
      const isReasonable = random.chance(0.9);
      const container = random.maybe(isReasonable ? movable : all);
      if (container === undefined) return undefined;
      const others = cluster.machines.filter(({ name }) => name !== container.allocation?.node);
      const to = random.pick(isReasonable ? others : cluster.machines).name;
      const isCold = container.spec?.migration === MigrationPolicy.COLD;
      const request = {
        containerId: container.id,
        mode:
          isReasonable && isCold
            ? MigrationMode.AUTO
            : random.pick([
                MigrationMode.AUTO,
                MigrationMode.AUTO,
                MigrationMode.CHECKPOINT,
                MigrationMode.COLD,
                MigrationMode.POSTCOPY,
                MigrationMode.POSTCOPY,
              ]),
        blackoutBudgetMs: 0,
        reason: "operator",
        ...(random.chance(0.5) ? { to } : {}),
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
  checkpoint: [
    1.5,
    (asked, { random }) => {
      const container = random.maybe(containers(asked));
      const { checkpoints, containers: all } = asked.state();
      // Those of a service are the service's to stop and to start.
      const kept = Object.values(checkpoints).filter(({ containerId }) => all[containerId]?.service === "");
      const ofStopped = kept.filter(({ containerId }) => all[containerId]?.desired === DesiredState.STOPPED);
      const one = random.maybe(ofStopped.length > 0 ? ofStopped : kept);
      const what = random.pick(["create", "create", "restore", "restore", "remove"] as const);
      if (what === "create" || one === undefined)
        return container === undefined
          ? undefined
          : async (scheduler) => {
              const id = await scheduler.createCheckpoint(container.id);
              return { what: "checkpoint", identity: `checkpointStarted ${id}` };
            };
      if (what === "remove") return silent((scheduler) => scheduler.removeCheckpoint(one.id));
      return ofStopped.length > 0
        ? silent((scheduler) => scheduler.restoreCheckpoint(one.id))
        : silent((scheduler) => scheduler.setDesired(one.containerId, "stop"));
    },
  ],
  balance: [
    0.7,
    (_, { random }) => {
      const isAuto = random.chance(0.8);
      if (random.chance(0.3))
        return async (scheduler) => {
          const [id] = (await scheduler.balancing.run()).migrationIds;
          return id === undefined ? undefined : { what: "balance", identity: `migrationStarted ${id}` };
        };
      const settings = BalanceSettings.fromPartial({
        policy: isAuto ? BalancePolicy.AUTO : random.pick([BalancePolicy.OFF, BalancePolicy.RECOMMEND]),
        threshold: random.pick([0.02, 0.1]),
        roundMs: random.pick([500, 2_000]),
        holdRounds: random.pick([1, 2]),
        smoothingMs: random.pick([500, 2_000]),
        settleMs: random.pick([500, 3_000]),
        coolDownMs: random.pick([0, 3_000, 10_000]),
        parallel: random.pick([1, 2, 4]),
        gainOverCost: random.pick([0, 1]),
        misses: random.pick([0, 3]),
      });
      return silent((scheduler) => scheduler.balancing.set(settings, SETTINGS));
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
