/** The hosts: what is on their disks, what runs in their kernels, and whose memory it is. The ground truth. */
import type { ContainerRecord, InitProcess } from "../../agent/model/record.ts";
import type { Process, World } from "./world.ts";

/** One container's processes on one host. */
export interface Copy {
  readonly containerId: string;
  readonly init: InitProcess;
  /** One number for one life of a container's memory, on whatever host it is; 0: it has not begun. */
  life: number;
  /** held: built or restored, with not one instruction run. */
  state: "running" | "frozen" | "held";
  /** Its CRIU dies with the agent, and what it has built with it. */
  readonly byCriu: boolean;
  /** It was stopped before its first instruction, at the end of its host's lease, and goes on only with its agent's word. */
  isHeldBack: boolean;
}

/** What was received of a container on its way here. */
export interface ReceivedImage {
  readonly migrationId: string;
  readonly life: number;
  /** CRIU has been answered that it may let it run: it will, whatever becomes of the agent. */
  resumes: boolean;
}

export class Machine {
  readonly name: string;
  readonly memoryBytes: number;
  readonly cpuMillis: number;
  incarnation: string;
  isUp = true;
  /** Nothing runs here, whatever its own state is: the lease has ended. */
  isFenced = false;
  /** When the fence closes; Infinity: never. It outlives the agent. */
  fencedFromMs = Infinity;
  /** Told when the fence has closed, while an agent listens. */
  onFenced: (() => void) | undefined;
  boots = 1;
  /** Files. */
  readonly records = new Map<string, string>();
  /** By container: which line of files its writable layer is. */
  readonly files = new Map<string, number>();
  readonly copies = new Map<string, Copy>();
  readonly images = new Map<string, ReceivedImage>();
  /** What the shim has on record. */
  readonly exits = new Map<string, { readonly initPid: number; readonly code: number }>();
  /** Told of the end of a first process, while an agent listens. */
  onExit: ((containerId: string, initPid: number, code: number) => void) | undefined;
  agent: Process | undefined;
  #nextPid = 100;

  constructor(name: string, incarnation: string, size: { memoryBytes: number; cpuMillis: number }) {
    this.name = name;
    this.incarnation = incarnation;
    this.memoryBytes = size.memoryBytes;
    this.cpuMillis = size.cpuMillis;
  }
  /** Another one after each restart of the machine. */
  get bootedAs(): string {
    return `${this.incarnation}-${this.boots}`;
  }
  newInit(): InitProcess {
    return { pid: (this.#nextPid += 1), startTicks: this.#nextPid };
  }
  record(containerId: string): Pick<ContainerRecord, "epoch" | "restartGeneration" | "status"> | undefined {
    const text = this.records.get(containerId);
    return text === undefined ? undefined : (JSON.parse(text) as ContainerRecord);
  }
}

/** What the log says of a container at this moment. */
export interface Ruling {
  /** Whether the node was ever given the container with this epoch. */
  wasGiven(containerId: string, node: string, epoch: number): boolean;
  /** Somebody asked for its end, or what ended it is in the log. */
  isExcused(containerId: string, restartGeneration: number): boolean;
  /** The same of its files. */
  isForgotten(containerId: string): boolean;
}

/**
 * Watches over every copy of every container on all hosts. Whatever starts, freezes, thaws or ends a copy says so here,
 * in the moment that it happens.
 */
export class Kernel {
  readonly machines = new Map<string, Machine>();
  readonly #world: World;
  ruling: Ruling = { wasGiven: () => true, isExcused: () => true, isForgotten: () => true };
  /** By container: of the newest life that has run. */
  readonly #lives = new Map<string, number>();
  /** Containers whose present life may end: its end is known, or asked for. */
  readonly #excused = new Map<string, string>();
  /** By container: its newest line of files. */
  readonly #files = new Map<string, number>();
  readonly #filesExcused = new Set<string>();
  #nextLife = 1;

  constructor(world: World) {
    this.#world = world;
  }

  excuse(containerId: string, why: string): void {
    this.#excused.set(containerId, why);
  }

  /** What it was is lost, as the log says, and it is begun anew elsewhere. */
  forgive(containerId: string): void {
    this.excuse(containerId, "its node was lost");
    this.#filesExcused.add(containerId);
  }

  runningOn(containerId: string): Machine[] {
    return [...this.machines.values()].filter(
      (machine) => !machine.isFenced && machine.copies.get(containerId)?.state === "running",
    );
  }
  /** Anything from which the life can go on. */
  #hasLife(life: number): boolean {
    for (const machine of this.machines.values()) {
      for (const copy of machine.copies.values()) if (copy.life === life) return true;
      for (const image of machine.images.values()) if (image.life === life) return true;
    }
    return false;
  }

  /** What goes along with a move. */
  filesOf(containerId: string): number {
    return this.#files.get(containerId) ?? 0;
  }

  /** Everything of a start but the first instruction. */
  create(machine: Machine, containerId: string): Copy {
    const copy: Copy = {
      containerId,
      init: machine.newInit(),
      life: 0,
      state: "held",
      byCriu: false,
      isHeldBack: false,
    };
    machine.copies.set(containerId, copy);
    if (!machine.files.has(containerId)) this.#newFiles(machine, containerId);
    return copy;
  }
  #newFiles(machine: Machine, containerId: string): void {
    const before = this.#files.get(containerId);
    const isElsewhere = [...this.machines.values()].some((other) => other.files.get(containerId) === before);
    if (before !== undefined && isElsewhere && !this.#areFilesOver(containerId))
      this.#world.violated(`${containerId} starts on ${machine.name} without the files that it had`);
    this.#nextLife += 1;
    machine.files.set(containerId, this.#nextLife);
    this.#filesExcused.delete(containerId);
    this.#files.set(containerId, this.#nextLife);
  }

  begin(machine: Machine, copy: Copy, epoch: number): void {
    const { containerId } = copy;
    const before = this.#lives.get(containerId);
    const others = [...this.machines.values()].filter(
      (other) =>
        other.copies.get(containerId)?.life === before || other.images.get(containerId)?.life === before,
    );
    if (before !== undefined && others.length > 0 && !this.#isOver(containerId, machine))
      this.#world.violated(
        `${containerId} starts from nothing on ${machine.name} (epoch ${epoch}), and ${others.map(({ name }) => name).join()} still has what it was`,
      );
    this.#nextLife += 1;
    copy.life = this.#nextLife;
    this.#lives.set(containerId, copy.life);
    this.#excused.delete(containerId);
    this.run(machine, copy, epoch);
  }

  /** Built from an image, to its last moment before running. */
  restore(machine: Machine, containerId: string, life: number): Copy {
    const copy: Copy = {
      containerId,
      init: machine.newInit(),
      life,
      state: "held",
      byCriu: true,
      isHeldBack: false,
    };
    machine.copies.set(containerId, copy);
    return copy;
  }

  run(machine: Machine, copy: Copy, epoch: number): void {
    copy.state = "running";
    if (!machine.isFenced) this.#check(machine, copy, epoch);
  }

  /** The lease of the host has ended. */
  close(machine: Machine): void {
    this.#world.trace(`${machine.name} is fenced`);
    machine.isFenced = true;
    machine.onFenced?.();
  }
  /** What is not frozen by itself runs again. */
  lift(machine: Machine): void {
    this.#world.trace(`${machine.name} is fenced no more`);
    machine.isFenced = false;
    for (const copy of machine.copies.values())
      if (copy.state === "running") this.#check(machine, copy, machine.record(copy.containerId)?.epoch ?? 0);
  }

  #check(machine: Machine, copy: Copy, epoch: number): void {
    const { containerId } = copy;
    this.#world.trace(`${machine.name} runs ${containerId} epoch ${epoch} life ${copy.life}`);
    const others = this.runningOn(containerId).filter((other) => other !== machine);
    if (others.length > 0)
      this.#world.violated(
        `two running copies of ${containerId}: on ${machine.name} and on ${others.map(({ name }) => name).join()}`,
      );
    if (!this.ruling.wasGiven(containerId, machine.name, epoch))
      this.#world.violated(
        `${machine.name} runs ${containerId} with epoch ${epoch}, which the log has never given it`,
      );
    const newest = this.#lives.get(containerId);
    if (newest !== undefined && newest !== copy.life)
      this.#world.violated(`${containerId} runs on ${machine.name} as it was before life ${newest} began`);
  }

  freeze(machine: Machine, copy: Copy): void {
    copy.state = "frozen";
    this.#world.trace(`${machine.name} freezes ${copy.containerId}`);
  }

  /** The container's first process ends by itself. */
  exit(machine: Machine, containerId: string, code: number): void {
    const copy = machine.copies.get(containerId);
    if (copy?.state !== "running" || machine.isFenced) return;
    this.#world.trace(`${machine.name} ${containerId} exits with ${code}`);
    this.excuse(containerId, "it ended by itself");
    machine.copies.delete(containerId);
    machine.exits.set(containerId, { initPid: copy.init.pid, code });
    machine.onExit?.(containerId, copy.init.pid, code);
  }

  /** An agent ends whatever runs, stands or is held of the container here. */
  kill(machine: Machine, containerId: string): void {
    const copy = machine.copies.get(containerId);
    if (copy === undefined) return;
    machine.copies.delete(containerId);
    machine.exits.set(containerId, { initPid: copy.init.pid, code: 137 });
    this.#world.trace(`${machine.name} kills ${containerId} (${copy.state}, life ${copy.life})`);
    this.#gone(machine, containerId, copy.life);
  }
  dropImage(machine: Machine, containerId: string): void {
    const image = machine.images.get(containerId);
    if (image === undefined) return;
    machine.images.delete(containerId);
    this.#gone(machine, containerId, image.life);
  }

  #gone(machine: Machine, containerId: string, life: number): void {
    if (life === 0 || this.#lives.get(containerId) !== life) return;
    // Whatever else is left of this life is over, too.
    if (this.#isOver(containerId, machine)) this.excuse(containerId, "its end was asked for, or is known");
    if (this.#hasLife(life)) return;
    if (!this.#isOver(containerId, machine))
      this.#world.violated(
        `the last copy of ${containerId} was removed from ${machine.name}, and nobody asked for that`,
      );
  }
  #isOver(containerId: string, machine: Machine): boolean {
    if (this.#excused.has(containerId)) return true;
    const record = machine.record(containerId);
    // It was being started when its agent died, and nobody was told that it ran; or it was stopped to be moved.
    if (record?.status.kind === "starting" || record?.status.kind === "halted") return true;
    return this.ruling.isExcused(containerId, record?.restartGeneration ?? 0);
  }

  /** Its writable layer and its record. */
  removeFiles(machine: Machine, containerId: string): void {
    machine.records.delete(containerId);
    const files = machine.files.get(containerId);
    machine.files.delete(containerId);
    if (files === undefined || this.#files.get(containerId) !== files) return;
    if ([...this.machines.values()].some((other) => other.files.get(containerId) === files)) return;
    if (!this.#areFilesOver(containerId))
      this.#world.violated(
        `the last files of ${containerId} were removed from ${machine.name}, and nobody asked for that`,
      );
  }
  #areFilesOver(containerId: string): boolean {
    return this.#filesExcused.has(containerId) || this.ruling.isForgotten(containerId);
  }

  /** The host loses its power: nothing runs there any more, and what is on its disk stays. */
  powerOff(machine: Machine): void {
    machine.isUp = false;
    for (const containerId of new Set([...machine.copies.keys(), ...machine.images.keys()]))
      this.excuse(containerId, `${machine.name} lost its power`);
    machine.copies.clear();
    machine.images.clear();
    machine.exits.clear();
    machine.onExit = undefined;
    machine.onFenced = undefined;
    machine.isFenced = false;
    machine.fencedFromMs = Infinity;
  }
  /** Its disk is another one. */
  loseDisk(machine: Machine, incarnation: string): void {
    machine.records.clear();
    for (const containerId of machine.files.keys()) this.#filesExcused.add(containerId);
    machine.files.clear();
    machine.incarnation = incarnation;
  }

  /** A CRIU dies with the agent that holds it, and what it has built with it, unless it was told to go on. */
  agentDied(machine: Machine): void {
    for (const [id, copy] of machine.copies)
      if (copy.byCriu && copy.state === "held" && machine.images.get(id)?.resumes !== true)
        machine.copies.delete(id);
    machine.onExit = undefined;
    machine.onFenced = undefined;
  }
}
