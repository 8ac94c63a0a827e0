/** Hosts, schedulers and what lies between them, for one seed. */
import { Bus } from "./bus.ts";
import { Conditions, drawTroubles } from "./conditions.ts";
import { enter } from "./context.ts";
import { startAgent, killAgent } from "./agent-process.ts";
import { beginFence } from "./fence.ts";
import { Kernel } from "./kernel.ts";
import { Machine } from "./machine.ts";
import { LogServer } from "./log-server.ts";
import { PageSessions } from "./page-sessions.ts";
import type { Random } from "./random.ts";
import { Referee } from "./referee.ts";
import { SimScheduler } from "./scheduler-process.ts";
import { StreamHub } from "./stream-hub.ts";
import type { World } from "./world.ts";

export const MIB = 1024 * 1024;
const HOUR_MS = 3_600_000;

export class SimCluster {
  readonly world: World;
  readonly random: Random;
  readonly conditions: Conditions;
  readonly bus: Bus;
  readonly server: LogServer;
  readonly kernel: Kernel;
  readonly referee: Referee;
  readonly machines: Machine[] = [];
  readonly schedulerIds: readonly string[];
  /** By id; undefined: it does not run. */
  readonly schedulers = new Map<string, SimScheduler>();
  /** Hosts that an operator has sworn to be off. */
  readonly keptOff = new Set<Machine>();
  readonly #leaseMs: number;
  readonly #leaderLeaseMs: number;
  readonly #confirmBy: "read" | "append";
  readonly #snapshotEvery: number;
  readonly #skews: boolean;
  #incarnations = 0;

  constructor(world: World) {
    this.world = world;
    this.random = world.random.fork("cluster");
    const { random } = this;
    this.conditions = new Conditions(drawTroubles(random));
    this.bus = new Bus(world, this.conditions);
    this.server = new LogServer(world, this.conditions);
    this.kernel = new Kernel(world);
    this.referee = new Referee(world, this.kernel);
    this.kernel.ruling = this.referee;
    this.server.onStored = (stored) => this.referee.stored(stored);
    this.#leaseMs = random.pick([3_000, 6_000, 15_000]);
    this.#leaderLeaseMs = random.pick([1_000, 3_000]);
    this.#confirmBy = random.pick(["read", "append"]);
    this.#snapshotEvery = random.pick([5, 20, 1_000]);
    this.#skews = random.chance(0.4);
    world.hasTrueClocks = !this.#skews;
    enter({
      world,
      conditions: this.conditions,
      bus: this.bus,
      kernel: this.kernel,
      hub: new StreamHub(world, this.conditions),
      sessions: new PageSessions(world),
      random: world.random.fork("hosts"),
    });
    const nodes = 2 + random.below(4);
    for (let at = 1; at <= nodes; at += 1) {
      const machine = new Machine(`n${at}`, this.#newIncarnation(), {
        memoryBytes: random.pick([512, 1_024, 2_048]) * MIB,
        cpuMillis: random.pick([1_000, 2_000, 4_000]),
      });
      this.machines.push(machine);
      this.kernel.machines.set(machine.name, machine);
    }
    this.schedulerIds = Array.from({ length: 1 + random.below(3) }, (_, at) => `s${at + 1}`);
  }

  #newIncarnation(): string {
    this.#incarnations += 1;
    return `incarnation-${this.#incarnations}`;
  }
  #skewMs(): number {
    return this.#skews ? this.random.pick([0, -HOUR_MS, 40, -700, 5_000, 24 * HOUR_MS]) : 0;
  }

  start(): void {
    for (const id of this.schedulerIds) this.startScheduler(id);
    for (const machine of this.machines) {
      beginFence(machine);
      startAgent(machine, this.#skewMs());
    }
  }

  startScheduler(id: string): void {
    if (this.schedulers.has(id)) return;
    const scheduler = new SimScheduler({
      id,
      server: this.server,
      leaseMs: this.#leaseMs,
      leaderLeaseMs: this.#leaderLeaseMs,
      confirmBy: this.#confirmBy,
      snapshotEvery: this.#snapshotEvery,
      skewMs: this.#skewMs(),
      onApplied: (one, replica) => this.referee.applied(one.id, replica),
      onEnd: (one) => {
        if (this.schedulers.get(one.id) !== one) return;
        this.killScheduler(one.id);
        this.world.after(1_000, undefined, () => this.startScheduler(one.id));
      },
    });
    this.schedulers.set(id, scheduler);
  }
  killScheduler(id: string): void {
    this.schedulers.get(id)?.kill();
    this.schedulers.delete(id);
  }
  get leader(): SimScheduler | undefined {
    return [...this.schedulers.values()].find(
      ({ process, running }) => process.paused === undefined && running?.leads === true,
    );
  }

  powerOff(machine: Machine): void {
    if (!machine.isUp) return;
    this.world.trace(`${machine.name} loses its power`);
    killAgent(machine);
    this.kernel.powerOff(machine);
  }
  powerOn(machine: Machine, losesDisk: boolean): void {
    if (machine.isUp || this.keptOff.has(machine)) return;
    this.world.trace(`${machine.name} has power again${losesDisk ? ", with another disk" : ""}`);
    if (losesDisk) this.kernel.loseDisk(machine, this.#newIncarnation());
    machine.isUp = true;
    machine.boots += 1;
    beginFence(machine);
    startAgent(machine, this.#skewMs());
  }
  /** Somebody has sworn that it is off, and sees to it that this stays true. */
  keepOff(machine: Machine, ms: number): void {
    this.keptOff.add(machine);
    this.world.after(ms, undefined, () => {
      this.keptOff.delete(machine);
      this.powerOn(machine, false);
    });
  }
  restartAgent(machine: Machine): void {
    if (machine.isUp && machine.agent === undefined) startAgent(machine, this.#skewMs());
  }

  /** All that was broken works again. */
  heal(): void {
    this.world.trace("everything works again");
    this.conditions.calm();
    this.kernel.needs.evenFromMs = this.world.nowMs;
    this.server.down = false;
    this.keptOff.clear();
    for (const machine of this.machines) {
      machine.isDiskFull = false;
      this.powerOn(machine, false);
      this.restartAgent(machine);
      if (machine.agent !== undefined) this.world.resume(machine.agent);
    }
    for (const { process } of this.schedulers.values()) this.world.resume(process);
    for (const connection of this.bus.connections) this.bus.heal(connection);
    for (const id of this.schedulerIds) this.startScheduler(id);
  }
}
