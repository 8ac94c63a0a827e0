/** What runs in the kernels of all hosts, and whose memory it is. The ground truth. */
import { CpuNeeds } from "./cpu-needs.ts";
import type { Copy, Machine, ReceivedImage } from "./machine.ts";
import type { World } from "./world.ts";

/** What the log says of a container at this moment. */
export interface Ruling {
  /** Whether the node was ever given the container with this epoch. */
  wasGiven(containerId: string, node: string, epoch: number): boolean;
  /** Somebody asked for its end, or what ended it is in the log. */
  isExcused(containerId: string, restartGeneration: number): boolean;
  /** The same of its files. */
  isForgotten(containerId: string): boolean;
  /** Whether the node is to keep the checkpoint. */
  isKept(checkpointId: string, node: string): boolean;
}

/** By its allocation of that epoch a container goes on from the checkpoint. */
export interface Wanted {
  readonly epoch: number;
  readonly checkpointId: string;
}

/**
 * Watches over every copy of every container on all hosts. Whatever starts, freezes, thaws or ends a copy says so here,
 * in the moment that it happens.
 */
export class Kernel {
  readonly machines = new Map<string, Machine>();
  readonly #world: World;
  ruling: Ruling = {
    wasGiven: () => true,
    isExcused: () => true,
    isForgotten: () => true,
    isKept: () => false,
  };
  /** By container: of the newest life that has run. */
  readonly #lives = new Map<string, number>();
  /** By life: where it ran last. */
  readonly #ranOn = new Map<number, Machine>();
  /** Containers whose present life may end: its end is known, or asked for. */
  readonly #excused = new Map<string, string>();
  /** By container: its newest line of files. */
  readonly #files = new Map<string, number>();
  readonly #filesExcused = new Set<string>();
  #nextLife = 1;
  /** By checkpoint: what it builds upon. */
  readonly #bases = new Map<string, string>();
  readonly #wanted = new Map<string, Wanted>();
  readonly needs: CpuNeeds;

  constructor(world: World) {
    this.#world = world;
    this.needs = new CpuNeeds(world);
  }

  excuse(containerId: string, why: string): void {
    this.#excused.set(containerId, why);
  }

  /** What it was is lost, as the log says, and it is begun anew elsewhere. */
  forgive(containerId: string): void {
    this.excuse(containerId, "its node was lost");
    this.#filesExcused.add(containerId);
  }

  /**
   * The log gives it back to the source of a move, whose target may have run it unseen, and has been lost: what became
   * of it there, be it another beginning, is what is lost.
   */
  givenBack(containerId: string, source: string): void {
    const copy = this.machines.get(source)?.copies.get(containerId);
    if (copy !== undefined) this.#lives.set(containerId, copy.life);
  }

  runningOn(containerId: string): Machine[] {
    return [...this.machines.values()].filter(
      (machine) => !machine.isFenced && machine.copies.get(containerId)?.state === "running",
    );
  }
  /** Anything from which the life can go on, whole. */
  #hasLife(life: number): boolean {
    const isWhole = (one: { readonly life: number; readonly lacking: number }): boolean =>
      one.life === life && one.lacking === 0;
    for (const machine of this.machines.values())
      if (machine.copies.values().some(isWhole) || machine.images.values().some(isWhole)) return true;
    return false;
  }

  /** Of the container's lives, the newest that has run; each begins with a start. */
  newestLife(containerId: string): number | undefined {
    return this.#lives.get(containerId);
  }

  /** Where the container is as it was last, and from where it can go on; undefined: nowhere. */
  whereItIs(containerId: string): Machine | undefined {
    const life = this.#lives.get(containerId);
    const machine = life === undefined ? undefined : this.#ranOn.get(life);
    const copy = machine?.copies.get(containerId);
    if (life === undefined || copy?.life !== life) return undefined;
    return copy.lacking === 0 || this.#hasLife(life) ? machine : undefined;
  }

  pagesArrived(machine: Machine, containerId: string): void {
    const copy = machine.copies.get(containerId);
    if (copy === undefined || copy.lacking === 0) return;
    copy.lacking -= 1;
    if (copy.lacking === 0) this.#world.trace(`${machine.name} has all of ${containerId}`);
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
      usedUsec: 0,
      usedUntilMs: 0,
      lacking: 0,
    };
    machine.copies.set(containerId, copy);
    if (!machine.files.has(containerId)) this.#newFiles(machine, containerId);
    return copy;
  }
  /** The log says so of its next beginning. */
  beginsFrom(containerId: string, wanted: Wanted | undefined): void {
    if (wanted === undefined) this.#wanted.delete(containerId);
    else this.#wanted.set(containerId, wanted);
  }
  /** In the place of what is there: those of a checkpoint. */
  layFiles(machine: Machine, containerId: string): void {
    machine.files.delete(containerId);
    this.#newFiles(machine, containerId);
  }
  /** @param baseId what it is a difference to; empty: nothing */
  taken(id: string, baseId: string): void {
    this.#bases.set(id, baseId);
  }
  /** A checkpoint and all that it builds upon. */
  chainOf(id: string): string[] {
    const base = this.#bases.get(id) ?? "";
    return base === "" ? [id] : [...this.chainOf(base), id];
  }
  dropCheckpoint(machine: Machine, id: string): void {
    machine.kept.delete(id);
    if (this.ruling.isKept(id, machine.name))
      this.#world.violated(`${machine.name} throws checkpoint ${id} away, and the log counts on it`);
    for (const other of machine.kept)
      if (this.ruling.isKept(other, machine.name) && this.chainOf(other).includes(id))
        this.#world.violated(`${machine.name} throws checkpoint ${id} away, and ${other} builds upon it`);
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
    const wanted = this.#wanted.get(containerId);
    this.#wanted.delete(containerId);
    const hasFailed = machine.failedRestores.has(`${containerId} ${epoch}`);
    if (wanted?.epoch === epoch && !copy.byCriu && !hasFailed)
      this.#world.violated(
        `${containerId} starts from nothing on ${machine.name}, and is to go on from checkpoint ${wanted.checkpointId}`,
      );
    this.#nextLife += 1;
    copy.life = this.#nextLife;
    this.#lives.set(containerId, copy.life);
    this.#excused.delete(containerId);
    this.run(machine, copy, epoch);
  }

  /** Built from an image, to its last moment before running. */
  restore(machine: Machine, containerId: string, { lacking, life }: ReceivedImage): Copy {
    const copy: Copy = {
      containerId,
      init: machine.newInit(),
      life,
      state: "held",
      byCriu: true,
      isHeldBack: false,
      usedUsec: 0,
      usedUntilMs: 0,
      lacking,
    };
    machine.copies.set(containerId, copy);
    return copy;
  }

  run(machine: Machine, copy: Copy, epoch: number): void {
    copy.state = "running";
    copy.usedUntilMs = this.#world.nowMs;
    if (!machine.isFenced) this.#check(machine, copy, epoch);
  }

  /** Of the CPU, up to now: what runs takes what the seed has drawn for it, each while another share of that. */
  cpuUsedUsec(copy: Copy): number {
    const { nowMs } = this.#world;
    if (copy.state !== "running") return Math.round(copy.usedUsec);
    // A thousandth of a CPU is a µs in each ms.
    copy.usedUsec += (nowMs - copy.usedUntilMs) * this.needs.cpuMillisAt(copy.containerId, nowMs);
    copy.usedUntilMs = nowMs;
    return Math.round(copy.usedUsec);
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
      else this.goesOn(machine, copy);
  }
  /** What was about to run does, unless something still holds it. */
  goesOn(machine: Machine, copy: Copy): void {
    const { onOpen } = copy;
    if (machine.isFenced || copy.isHeldBack) return;
    copy.onOpen = undefined;
    onOpen?.();
  }

  #check(machine: Machine, copy: Copy, epoch: number): void {
    const { containerId } = copy;
    this.#world.trace(`${machine.name} runs ${containerId} epoch ${epoch} life ${copy.life}`);
    this.#ranOn.set(copy.life, machine);
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
    this.#gone(machine, containerId, copy.life, true);
  }
  dropImage(machine: Machine, containerId: string): void {
    const image = machine.images.get(containerId);
    if (image === undefined) return;
    machine.images.delete(containerId);
    this.#gone(machine, containerId, image.life, false);
  }

  #gone(machine: Machine, containerId: string, life: number, hasRun: boolean): void {
    if (life === 0 || this.#lives.get(containerId) !== life) return;
    // Whatever else is left of this life is over, too.
    if (this.#isOver(containerId, machine)) this.excuse(containerId, "its end was asked for, or is known");
    if (this.#isOver(containerId, machine)) return;
    if (!this.#hasLife(life))
      this.#world.violated(
        `the last copy of ${containerId} was removed from ${machine.name}, and nobody asked for that`,
      );
    // What was sent may never run: no host can be sure of that before it does.
    else if (hasRun && this.#ranOn.get(life) === machine)
      this.#world.violated(`${containerId} was removed from ${machine.name}, and runs nowhere else yet`);
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
    const gone = new Set([...machine.copies.keys(), ...machine.images.keys()]);
    machine.copies.clear();
    machine.images.clear();
    for (const containerId of gone)
      if (this.#isLatestGone(containerId, machine))
        this.excuse(containerId, `${machine.name} lost its power`);
    machine.exits.clear();
    machine.onExit = undefined;
    machine.onFenced = undefined;
    machine.isFenced = false;
    machine.fencedFromMs = Infinity;
  }
  /** What it was at last is nowhere any more; an older copy at the source of its move is not it. */
  #isLatestGone(containerId: string, machine: Machine): boolean {
    const life = this.#lives.get(containerId);
    return life === undefined || this.#ranOn.get(life) === machine || !this.#hasLife(life);
  }
  /** Its disk is another one. */
  loseDisk(machine: Machine, incarnation: string): void {
    machine.records.clear();
    const gone = [...machine.files.keys()];
    machine.files.clear();
    machine.kept.clear();
    machine.spool.clear();
    machine.diskSinceMs = this.#world.nowMs;
    for (const containerId of gone)
      if (this.#areFilesGone(containerId, machine)) this.#filesExcused.add(containerId);
    machine.incarnation = incarnation;
  }

  #areFilesGone(containerId: string, machine: Machine): boolean {
    const [files, life] = [this.#files.get(containerId), this.#lives.get(containerId)];
    const isElsewhere = [...this.machines.values()].some((other) => other.files.get(containerId) === files);
    return !isElsewhere || life === undefined || this.#ranOn.get(life) === machine;
  }

  /** Every CRIU that holds something here is killed, as when memory runs out. */
  killCriu(machine: Machine): void {
    for (const [id, copy] of machine.copies) {
      if (!copy.byCriu || copy.state !== "held") continue;
      this.#world.trace(`${machine.name} the CRIU of ${id} is killed`);
      machine.copies.delete(id);
      const image = machine.images.get(id);
      if (image !== undefined) image.resumes = false;
      copy.onCriuDeath?.();
    }
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
