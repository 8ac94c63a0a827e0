/** How bad the weather is. Each seed draws what can go wrong in it at all, so that few troubles meet often, too. */
import type { Random } from "./random.ts";

export interface Troubles {
  readonly loss: number;
  readonly duplication: number;
  readonly reorders: boolean;
  /** Of one message, at most. */
  readonly slowMessageMs: number;
  readonly slowMessage: number;
  readonly lostAcknowledgement: number;
  readonly slowDiskMs: number;
  readonly slowDisk: number;
  readonly startFailure: number;
  readonly restoreFailure: number;
  readonly streamFailure: number;
  readonly unreadableSnapshot: number;
  readonly slowFenceMs: number;
  /** Of one record. */
  readonly failedWrite: number;
}

const CALM: Troubles = {
  loss: 0,
  duplication: 0,
  reorders: false,
  slowMessageMs: 5,
  slowMessage: 0,
  lostAcknowledgement: 0,
  slowDiskMs: 5,
  slowDisk: 0,
  startFailure: 0,
  restoreFailure: 0,
  streamFailure: 0,
  unreadableSnapshot: 0,
  slowFenceMs: 0,
  failedWrite: 0,
};

export const drawTroubles = (random: Random): Troubles => {
  const some = (share: number, most: number): number =>
    random.chance(share) ? random.next() ** 2 * most : 0;
  return {
    loss: some(0.5, 0.3),
    duplication: some(0.5, 0.4),
    reorders: random.chance(0.4),
    slowMessageMs: random.pick([20, 200, 2_000, 6_000]),
    slowMessage: some(0.6, 0.3),
    lostAcknowledgement: some(0.5, 0.4),
    slowDiskMs: random.pick([50, 500, 3_000, 10_000]),
    slowDisk: some(0.5, 0.4),
    startFailure: some(0.4, 0.4),
    restoreFailure: some(0.4, 0.6),
    streamFailure: some(0.4, 0.3),
    unreadableSnapshot: some(0.2, 0.3),
    slowFenceMs: random.chance(0.5) ? 900 : 0,
    failedWrite: some(0.15, 0.3),
  };
};

/** What becomes of a message beside arriving once, soon and in its turn. */
export const FATES = ["lost", "doubled", "late", "overtaken"] as const;
export type Fate = (typeof FATES)[number];

/** Later than anything that takes its usual way. */
const LATE_MS = 20;

export class Conditions {
  #now: Troubles;
  /** By kind of message and what became of it. */
  readonly fates = new Map<string, number>();

  constructor(troubles: Troubles) {
    this.#now = troubles;
  }
  /** Nothing goes wrong any more. */
  calm(): void {
    this.#now = CALM;
  }
  get loss(): number {
    return this.#now.loss;
  }
  get duplication(): number {
    return this.#now.duplication;
  }
  get reorders(): boolean {
    return this.#now.reorders;
  }
  get troubles(): Troubles {
    return this.#now;
  }
  befalls(kind: string, fate: Fate): void {
    const key = `${kind} ${fate}`;
    this.fates.set(key, (this.fates.get(key) ?? 0) + 1);
  }
  /** Of one message on its way. */
  delayMs(random: Random, kind: string): number {
    const { slowMessage, slowMessageMs } = this.#now;
    if (!random.chance(slowMessage)) return random.between(0.1, 2);
    const ms = random.between(1, slowMessageMs);
    if (ms >= LATE_MS) this.befalls(kind, "late");
    return ms;
  }
  /** Until what was written is on the disk. */
  diskMs(random: Random): number {
    const { slowDisk, slowDiskMs } = this.#now;
    return random.chance(slowDisk) ? random.between(1, slowDiskMs) : random.between(0.2, 1);
  }
}
