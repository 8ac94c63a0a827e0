/** The fence of a simulated host: it outlives the agent, and this is the agent's side of it. */
import { context } from "./context.ts";
import type { Machine } from "./machine.ts";
import { sleep } from "./replaced/timers.ts";
import type { Process } from "./world.ts";

const NS_PER_MS = 1_000_000;
/** What a fence allows of which nobody has told it a deadline, on a host where nothing can run yet. */
const OPEN_AFTER_BOOT_MS = 60_000;

const watch = (machine: Machine): void => {
  const { conditions, kernel, random, world } = context();
  const untilMs = machine.fencedFromMs;
  if (untilMs === Infinity) return;
  // Tasks take their time to stop, and clocks run unlike.
  world.after(untilMs - world.nowMs + random.between(0, conditions.troubles.slowFenceMs), undefined, () => {
    if (machine.isUp && !machine.isFenced && machine.fencedFromMs === untilMs) kernel.close(machine);
  });
};

/** A host that has just begun. */
export const beginFence = (machine: Machine): void => {
  machine.isFenced = false;
  machine.fencedFromMs = context().world.nowMs + OPEN_AFTER_BOOT_MS;
  watch(machine);
};

export class SimFence {
  readonly fault = "";
  readonly #machine: Machine;
  #leaseMs: number | undefined;

  constructor(machine: Machine, owner: Process, changed: () => void) {
    this.#machine = machine;
    machine.onFenced = () => void context().world.after(1, owner, changed);
  }
  get isClosed(): boolean {
    return this.#machine.isFenced;
  }
  get armedMs(): number | undefined {
    return this.#leaseMs;
  }
  async extend(sentAtNs: bigint, leaseMs: number): Promise<void> {
    await sleep(context().random.between(0, 1));
    this.#leaseMs = leaseMs;
    this.#machine.fencedFromMs = leaseMs === 0 ? Infinity : Number(sentAtNs) / NS_PER_MS + leaseMs;
    watch(this.#machine);
  }
  async lift(): Promise<boolean> {
    const { kernel, random, world } = context();
    await sleep(random.between(0, 1));
    if (this.#machine.fencedFromMs <= world.nowMs) return false;
    if (this.#machine.isFenced) kernel.lift(this.#machine);
    return true;
  }
  /** Freezes each container by itself, so that none goes on when the fence is lifted. */
  holdEach(): void {
    const { kernel } = context();
    for (const copy of this.#machine.copies.values())
      if (copy.state === "running") kernel.freeze(this.#machine, copy);
      else if (copy.state === "held") copy.isHeldBack = true;
  }
}
