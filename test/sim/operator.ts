/** People at the command line: they ask for whatever the scheduler's public methods offer, at any moment. */
import { GodwitError } from "../../proto/contract/error.ts";
import { AllocationState, MigrationState, type Container } from "../../proto/gen/godwit/v1/log.ts";
import {
  ContainerSpec,
  Image,
  MigrationMode,
  MigrationPolicy,
  RestartPolicy,
} from "../../proto/gen/godwit/v1/spec.ts";
import type { Scheduler } from "../../scheduler/mod.ts";
import { withRequest } from "../../scheduler/leader/request.ts";
import { MISSED_TOO_MUCH, type SimScheduler } from "./scheduler-process.ts";
import { MIB, type SimCluster } from "./cluster.ts";
import type { Random } from "./random.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const LAYER = `sha256:${"c".repeat(64)}`;
const NAMES = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] as const;
/** One who has sworn that a host is off keeps it off for as long as his word may still reach the log. */
const KEPT_OFF_MS = 40_000;

const image = (): Image =>
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

/** One request, which may be made again where its answer was lost. */
type Call = (scheduler: Scheduler) => Promise<Promised | undefined>;
/** Undefined: there is nothing to ask for. */
type Draw = (scheduler: Scheduler, operator: Operator) => Call | undefined;

const silent =
  (call: (scheduler: Scheduler) => Promise<unknown>): Call =>
  async (scheduler) => {
    await call(scheduler);
    return undefined;
  };

const spec = (
  name: string,
  { random, machines }: { random: Random; machines: SimCluster["machines"] },
): ContainerSpec =>
  ContainerSpec.fromPartial({
    name,
    image: "redis",
    limits: {
      memoryBytes: random.pick([0, 100, 300, 500]) * MIB,
      cpuMillis: random.pick([0, 0, 500, 1_000]),
      pids: 0,
      diskBytes: 0,
    },
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
    node: random.chance(0.2) ? random.pick(machines).name : "",
  });

const containers = (scheduler: Scheduler): Container[] =>
  Object.values(scheduler.state().containers) as Container[];

const DRAWS: Readonly<Record<string, readonly [weight: number, draw: Draw]>> = {
  run: [
    6,
    (_, { random, cluster }) => {
      const wanted = spec(random.pick(NAMES), { random, machines: cluster.machines });
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
};

/** A lost answer is asked for again, under the same name, so often. */
const REPEATS = 4;

/** What people are told when something may not be done, or by a scheduler that was away for longer than the log is kept. */
const isAnswer = (error: unknown): error is GodwitError =>
  error instanceof GodwitError &&
  error.code !== "internal" &&
  (error.code !== "corrupt" || MISSED_TOO_MUCH.test(error.message));

export class Operator {
  readonly cluster: SimCluster;
  readonly random: Random;
  readonly promised: Promised[] = [];
  readonly counts = new Map<string, number>();
  readonly #weights: readonly (readonly [name: string, weight: number, draw: Draw])[];
  readonly #everyMs: number;

  constructor(cluster: SimCluster) {
    this.cluster = cluster;
    this.random = cluster.world.random.fork("operator");
    this.#weights = Object.entries(DRAWS).map(([name, [weight, draw]]) => [
      name,
      name === "run" ? weight : weight * (this.random.chance(0.25) ? 0 : this.random.between(0.2, 2)),
      draw,
    ]);
    this.#everyMs = this.random.pick([300, 1_000, 3_000]);
  }

  /** Until then something is asked for at every so often. */
  begin(untilMs: number): void {
    const { world } = this.cluster;
    const next = (): void => {
      world.after(this.random.between(0, 2 * this.#everyMs), undefined, () => {
        if (world.nowMs > untilMs) return;
        this.#ask(...this.#draw());
        next();
      });
    };
    next();
    this.#importImage();
  }

  #importImage(): void {
    const { world, referee } = this.cluster;
    if (referee.state.images["redis"] !== undefined) return;
    this.#ask("image", () => silent((scheduler) => scheduler.addImage(image())));
    world.after(1_000, undefined, () => this.#importImage());
  }

  #draw(): [string, Draw] {
    let at = this.random.next() * this.#weights.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [name, weight, draw] of this.#weights) {
      at -= weight;
      if (weight > 0 && at <= 0) return [name, draw];
    }
    return ["nothing", () => undefined];
  }

  /** Of the one that leads, or of any: people do not know. */
  #ask(name: string, draw: Draw): void {
    // Older clients have none.
    const requestId = this.random.chance(0.5) ? this.random.bytes(8).toString("hex") : undefined;
    this.#askOne(name, requestId, (scheduler) => draw(scheduler, this), REPEATS);
  }

  #askOne(
    name: string,
    requestId: string | undefined,
    callOf: (scheduler: Scheduler) => Call | undefined,
    repeats: number,
  ): void {
    const { cluster, random } = this;
    const { world } = cluster;
    const anybody = (): SimScheduler | undefined => random.maybe([...cluster.schedulers.values()]);
    const asked = random.chance(0.9) ? (cluster.leader ?? anybody()) : anybody();
    if (asked === undefined) return;
    world.after(0, asked.process, () => {
      const { running } = asked;
      const call = running === undefined ? undefined : callOf(running);
      if (running === undefined || call === undefined) return;
      void (async () => {
        try {
          const promised = await (requestId === undefined
            ? call(running)
            : withRequest(requestId, () => call(running)));
          world.trace(`operator: ${name} at ${asked.id}: ${promised?.identity ?? "done"}`);
          if (promised !== undefined) this.promised.push(promised);
          this.#count(name);
        } catch (error) {
          if (!isAnswer(error)) throw error;
          world.trace(`operator: ${name} at ${asked.id}: ${error.code}: ${error.message}`);
          this.#count(`${name} (${error.code})`);
          if (error.code !== "unavailable" || repeats === 0 || requestId === undefined) return;
          // Whether it was done is not known: the same is asked for again, of whoever leads by then.
          world.after(random.between(100, 3_000), undefined, () =>
            this.#askOne(name, requestId, () => call, repeats - 1),
          );
        }
      })();
    });
  }

  #count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** What was promised and is not so. */
  broken(): string | undefined {
    const missing = this.promised.find(({ identity }) => !this.cluster.referee.isAccepted(identity));
    return missing === undefined
      ? undefined
      : `${missing.what} was answered, and ${missing.identity} is not in the log`;
  }
}
