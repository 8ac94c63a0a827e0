/** What breaks, when: drawn from the seed. Each seed has a mood of its own, in which some faults are frequent and others never happen. */
import { GodwitError } from "../../proto/contract/error.ts";
import { killAgent } from "./agent-process.ts";
import type { SimCluster } from "./cluster.ts";
import type { Machine } from "./machine.ts";
import type { Random } from "./random.ts";
import type { Process } from "./world.ts";

/** @param machine the host that it falls on, where it falls on one */
type Fault = (cluster: SimCluster, random: Random, machine: Machine) => void;

/** Short ones and long ones, beyond every lease and limit. */
const lastsMs = (random: Random): number =>
  random.pick([50, 500, 3_000, 10_000, 25_000]) * random.between(0.5, 1.5);

const FAULTS: Readonly<Record<string, Fault>> = {
  agentDies: (cluster, random, machine) => {
    killAgent(machine);
    cluster.world.after(lastsMs(random), undefined, () => cluster.restartAgent(machine));
  },
  powerFails: (cluster, random, machine) => {
    cluster.powerOff(machine);
    const losesDisk = random.chance(0.2);
    cluster.world.after(lastsMs(random), undefined, () => cluster.powerOn(machine, losesDisk));
  },
  agentIsCutOff: (cluster, random, { agent }) => {
    if (agent !== undefined) cutOff(cluster, random, agent);
  },
  schedulerIsCutOff: (cluster, random) => {
    const scheduler = random.maybe([...cluster.schedulers.values()]);
    if (scheduler !== undefined) cutOff(cluster, random, scheduler.process);
  },
  agentStandsStill: (cluster, random, { agent }) => {
    if (agent !== undefined) standStill(cluster, random, agent);
  },
  schedulerStandsStill: (cluster, random) => {
    const scheduler = random.maybe([...cluster.schedulers.values()]);
    if (scheduler !== undefined) standStill(cluster, random, scheduler.process);
  },
  schedulerDies: (cluster, random) => {
    const id = random.pick(cluster.schedulerIds);
    cluster.killScheduler(id);
    cluster.world.after(lastsMs(random), undefined, () => cluster.startScheduler(id));
  },
  /** Somebody orders one to lead, whoever does already. */
  schedulerIsMadeToLead: (cluster, random) => {
    const scheduler = random.maybe([...cluster.schedulers.values()]);
    if (scheduler === undefined) return;
    cluster.world.after(0, scheduler.process, () => {
      cluster.world.trace(`${scheduler.id} is to lead`);
      void scheduler.running?.lead().catch((error: unknown) => {
        if (GodwitError.from(error).code !== "unavailable") throw error;
      });
    });
  },
  logIsDown: (cluster, random) => {
    cluster.world.trace("the log does not answer");
    cluster.server.down = true;
    cluster.world.after(lastsMs(random), undefined, () => {
      cluster.server.down = false;
    });
  },
  diskIsFull: (cluster, random, machine) => {
    if (machine.isDiskFull) return;
    cluster.world.trace(`the disk of ${machine.name} is full`);
    machine.isDiskFull = true;
    cluster.world.after(lastsMs(random), undefined, () => {
      machine.isDiskFull = false;
    });
  },
  criuDies: (cluster, _, machine) => cluster.kernel.killCriu(machine),
  containerExits: (cluster, random, machine) => {
    const id = random.maybe([...machine.copies.keys()]);
    if (id !== undefined) cluster.kernel.exit(machine, id, random.pick([0, 1, 137]));
  },
  clockJumps: (cluster, random, { agent }) => {
    const processes = [...cluster.schedulers.values()].map((scheduler) => scheduler.process);
    const process = random.maybe(agent === undefined ? processes : [...processes, agent]);
    if (process === undefined) return;
    cluster.world.hasTrueClocks = false;
    process.skewMs += random.pick([-60_000, -1_000, 1_000, 20_000, 24 * 3_600_000]);
    cluster.world.trace(`the clock of ${process.name} jumps`);
  },
};

/** By which a target does not get to run what is its own by now. */
const TARGETS_FAULTS = ["agentDies", "powerFails", "agentIsCutOff", "criuDies", "criuDies"] as const;

const cutOff = (cluster: SimCluster, random: Random, process: Process): void => {
  const connection = cluster.bus.of(process);
  if (connection === undefined || connection.link.cut) return;
  cluster.world.trace(`${process.name} is cut off`);
  cluster.bus.cut(connection);
  cluster.world.after(lastsMs(random), undefined, () => cluster.bus.heal(connection));
};

const standStill = (cluster: SimCluster, random: Random, process: Process): void => {
  if (process.paused !== undefined) return;
  cluster.world.trace(`${process.name} stands still`);
  cluster.world.pause(process);
  cluster.world.after(lastsMs(random), undefined, () => cluster.world.resume(process));
};

/** Those that are in this seed at all, each as often as its weight. */
class Mood {
  readonly #faults: readonly { readonly fault: Fault; readonly weight: number }[];
  readonly #total: number;

  constructor(random: Random) {
    this.#faults = Object.values(FAULTS).map((fault) => ({
      fault,
      weight: random.chance(0.45) ? 0 : random.next() ** 2,
    }));
    this.#total = this.#faults.reduce((sum, { weight }) => sum + weight, 0);
  }
  strike(cluster: SimCluster, random: Random, machine: Machine): void {
    let at = random.next() * this.#total;
    for (const { fault, weight } of this.#faults) {
      at -= weight;
      if (weight === 0 || at > 0) continue;
      fault(cluster, random, machine);
      return;
    }
  }
}

/** Breaks something at every so often until the moment, and in the middle of moves. */
export const scheduleFaults = (cluster: SimCluster, untilMs: number): void => {
  const { world } = cluster;
  const random = world.random.fork("faults");
  const mood = new Mood(random);
  const everyMs = random.pick([1_000, 3_000, 8_000, 20_000]);
  const next = (): void => {
    world.after(random.between(0, 2 * everyMs), undefined, () => {
      if (world.nowMs > untilMs) return;
      mood.strike(cluster, random, random.pick(cluster.machines));
      next();
    });
  };
  next();
  const strikeIn = (ms: number, name: string, strike: (machine: Machine) => void): void => {
    const machine = cluster.kernel.machines.get(name);
    world.after(ms, undefined, () => {
      if (machine !== undefined && world.nowMs < untilMs) strike(machine);
    });
  };
  const inMoves = random.chance(0.5) ? random.next() ** 2 * 0.4 : 0;
  const inSwitches = random.chance(0.3) ? random.next() * 0.6 : 0;
  cluster.referee.onMove = (from, to, isSwitched) => {
    if (world.nowMs > untilMs) return;
    // Most of what can go wrong with a move lies within milliseconds.
    const soonMs = (most: number): number => 10 ** random.between(-1, most);
    if (random.chance(inMoves))
      strikeIn(soonMs(3), random.pick([from, to]), (machine) => mood.strike(cluster, random, machine));
    // What follows a post-copy is lost with its source.
    if (isSwitched && random.chance(inSwitches / 2))
      strikeIn(soonMs(3), from, (machine) => FAULTS["powerFails"]?.(cluster, random, machine));
    if (isSwitched && random.chance(inSwitches))
      strikeIn(soonMs(2), to, (machine) => FAULTS[random.pick(TARGETS_FAULTS)]?.(cluster, random, machine));
  };
};
