/** How much of the CPU each container takes, for the balancer to see: by turns much and little, as the seed says. */
import type { World } from "./world.ts";

interface Need {
  readonly cpuMillis: number;
  readonly turnsMs: number;
}

const QUIET_SHARE = 0.2;

export class CpuNeeds {
  readonly #world: World;
  readonly #needs = new Map<string, Need>();
  /** From then on each container takes the same all the time. */
  evenFromMs = Infinity;

  constructor(world: World) {
    this.#world = world;
  }

  cpuMillisAt(containerId: string, nowMs: number): number {
    const { cpuMillis, turnsMs } = this.#of(containerId);
    const isQuiet = Math.floor(Math.min(nowMs, this.evenFromMs) / turnsMs) % 2 === 1;
    return cpuMillis * (isQuiet ? QUIET_SHARE : 1);
  }
  #of(containerId: string): Need {
    let need = this.#needs.get(containerId);
    if (need === undefined) {
      const random = this.#world.random.fork(`need ${containerId}`);
      need = { cpuMillis: random.pick([5, 50, 300, 900]), turnsMs: random.pick([10_000, 25_000, 100_000]) };
      this.#needs.set(containerId, need);
    }
    return need;
  }
}
