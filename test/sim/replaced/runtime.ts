/** In the place of agent/container/runtime.ts: what a container is on a simulated host. */
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Host } from "../../../agent/host.ts";
import type { ContainerRecord, InitProcess } from "../../../agent/model/record.ts";
import { context, machineOf } from "../context.ts";
import type { Copy, Machine } from "../machine.ts";
import { sleep } from "./timers.ts";

const FENCED_LOOK_MS = 50;
/** No command is waited for any longer (agent/native/command.ts). */
const COMMAND_MS = 30_000;

/** Its kernel's end of the container: frozen, thawed and ended here. */
class SimCgroup {
  readonly #machine: Machine;
  readonly #id: string;

  constructor(machine: Machine, id: string) {
    this.#machine = machine;
    this.#id = id;
  }
  get #copy(): Copy | undefined {
    return this.#machine.copies.get(this.#id);
  }
  readonly freezerPath = "/simulated";
  async freeze(): Promise<void> {
    await Promise.resolve();
    const copy = this.#copy;
    if (copy?.state === "running") context().kernel.freeze(this.#machine, copy);
  }
  thaw(): void {
    const copy = this.#copy;
    if (copy === undefined) return;
    copy.isHeldBack = false;
    context().kernel.goesOn(this.#machine, copy);
    if (copy.state !== "frozen") return;
    context().kernel.run(this.#machine, copy, this.#machine.record(this.#id)?.epoch ?? 0);
  }
  isFrozen(): boolean {
    return this.#copy?.state === "frozen";
  }
  processes(): number[] {
    const copy = this.#copy;
    return copy === undefined ? [] : [copy.init.pid];
  }
  async killAll(): Promise<void> {
    await Promise.resolve();
    context().kernel.kill(this.#machine, this.#id);
  }
  outOfMemoryKills(): number {
    return 0;
  }
  memoryBytes(): number {
    return 4_096;
  }
  ownMemoryBytes(): number {
    return 4_096;
  }
  cpuUsageUsec(): number {
    const copy = this.#copy;
    return copy === undefined ? 0 : context().kernel.cpuUsedUsec(copy);
  }
  pidsCount(): number {
    return 1;
  }
  blockIoBytes(): undefined {
    return undefined;
  }
  limitCpu(): void {}
  liftLimits(): void {}
  applyLimits(): void {}
}

export class ContainerRuntime {
  readonly id: string;
  readonly cgroup: SimCgroup;
  readonly watchedPaths = {};
  readonly attachment = {};
  readonly paths: Readonly<Record<string, string>>;
  readonly #machine: Machine;

  constructor(host: Host, id: string) {
    this.id = id;
    this.#machine = machineOf(host);
    this.cgroup = new SimCgroup(this.#machine, id);
    // What stands for the folder is all that the parts in its place need of it.
    this.paths = { images: `${this.#machine.name}/${id}`, rootfs: "", log: "", bundle: "", lazyPages: "" };
  }

  async makeFolders(): Promise<void> {
    await Promise.resolve();
    this.#machine.writes();
  }

  async start(record: ContainerRecord, signal: AbortSignal): Promise<InitProcess> {
    const init = await this.create(record, signal);
    await this.begin(record, signal);
    return init;
  }

  async create(_record: ContainerRecord, signal: AbortSignal): Promise<InitProcess> {
    const { conditions, kernel, random } = context();
    await sleep(random.between(1, 60), signal);
    if (random.chance(conditions.troubles.startFailure))
      throw new GodwitError("unavailable", "it could not be started");
    await this.tearDown();
    await this.#untilOpen(signal);
    signal.throwIfAborted();
    this.#machine.writes();
    return kernel.create(this.#machine, this.id).init;
  }

  /** Nothing begins in a group of processes that stands still. */
  async #untilOpen(signal: AbortSignal): Promise<void> {
    for (let waitedMs = 0; this.#isHeld; waitedMs += FENCED_LOOK_MS) {
      if (waitedMs >= COMMAND_MS) throw new GodwitError("deadline", "runc did not end in time");
      await sleep(FENCED_LOOK_MS, signal);
    }
  }
  get #isHeld(): boolean {
    return this.#machine.isFenced || this.#machine.copies.get(this.id)?.isHeldBack === true;
  }

  async begin(record: ContainerRecord, signal: AbortSignal): Promise<void> {
    const { kernel, random } = context();
    await sleep(random.between(0, 5));
    await this.#untilOpen(signal);
    const copy = this.#machine.copies.get(this.id);
    if (copy?.state !== "held") throw new GodwitError("unavailable", "it is not there any more");
    kernel.begin(this.#machine, copy, record.epoch);
    await sleep(random.between(1, 20));
  }

  isRunning(init: InitProcess): boolean {
    return this.#machine.copies.get(this.id)?.init.pid === init.pid;
  }

  async stop(_record: ContainerRecord, init: InitProcess, signal: AbortSignal): Promise<void> {
    const { random } = context();
    this.cgroup.thaw();
    if (this.isRunning(init)) await sleep(random.between(1, 300), signal).catch(() => undefined);
    await this.tearDown();
  }

  async tearDown(): Promise<void> {
    const { kernel, random } = context();
    kernel.kill(this.#machine, this.id);
    kernel.dropImage(this.#machine, this.id);
    await sleep(random.between(0, 10));
  }

  async remove(): Promise<void> {
    await this.tearDown();
    context().kernel.removeFiles(this.#machine, this.id);
  }

  async discardHalfRestored(): Promise<void> {
    const copy = this.#machine.copies.get(this.id);
    if (copy?.state === "held") this.#machine.copies.delete(this.id);
    await Promise.resolve();
  }

  async reattachOutput(): Promise<void> {
    await Promise.resolve();
  }
  async plug(): Promise<{ plugIn(): void; announce(): void; unplug(): void }> {
    await Promise.resolve();
    return { plugIn: () => undefined, announce: () => undefined, unplug: () => undefined };
  }
}
