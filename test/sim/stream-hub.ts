/** The image streams between hosts: in order and whole, or not at all. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { Conditions } from "./conditions.ts";
import type { Random } from "./random.ts";
import { sleep } from "./replaced/timers.ts";
import type { Process, World } from "./world.ts";

const TRY_MS = 100;
/** As the agents do (agent/migrate/stream-ends.ts). */
const IDLE_MS = 300_000;

interface ReceivingEnd {
  /** In whose time it learns of things. */
  readonly owner: Process | undefined;
  readonly isReachable: () => boolean;
  readonly begun: PromiseWithResolvers<void>;
  readonly whole: PromiseWithResolvers<number>;
}

/** How long an end waits for the other one. */
interface Patience {
  readonly signal: AbortSignal;
  readonly idleMs?: number;
}

export class StreamHub {
  readonly #world: World;
  readonly #conditions: Conditions;
  readonly #random: Random;
  readonly #receivers = new Map<string, ReceivingEnd>();

  constructor(world: World, conditions: Conditions) {
    this.#world = world;
    this.#conditions = conditions;
    this.#random = world.random.fork("streams");
  }

  /** @param isReachable whether this end can be spoken to now */
  receive(migrationId: string, isReachable: () => boolean): ReceivingEnd & Disposable {
    const end: ReceivingEnd = {
      owner: this.#world.current,
      isReachable,
      begun: Promise.withResolvers(),
      whole: Promise.withResolvers(),
    };
    end.begun.promise.catch(() => undefined);
    end.whole.promise.catch(() => undefined);
    this.#receivers.set(migrationId, end);
    return {
      ...end,
      [Symbol.dispose]: () => {
        if (this.#receivers.get(migrationId) === end) this.#receivers.delete(migrationId);
      },
    };
  }

  async #reach(
    migrationId: string,
    isReachable: () => boolean,
    { signal, idleMs = IDLE_MS }: Patience,
  ): Promise<ReceivingEnd> {
    for (let waitedMs = 0; waitedMs < idleMs; waitedMs += TRY_MS) {
      signal.throwIfAborted();
      const end = this.#receivers.get(migrationId);
      if (end !== undefined && end.isReachable() && isReachable()) return end;
      await sleep(TRY_MS, signal);
    }
    throw new GodwitError("unavailable", "the target does not answer");
  }

  async begin(migrationId: string, isReachable: () => boolean, patience: Patience): Promise<void> {
    const end = await this.#reach(migrationId, isReachable, patience);
    this.#world.after(0, end.owner, end.begun.resolve);
    if (this.#random.chance(this.#conditions.troubles.streamFailure))
      throw new GodwitError("unavailable", "the stream broke");
  }

  /** The last piece; resolves when the target has said that it has all of it. */
  async finish(
    migrationId: string,
    life: number,
    isReachable: () => boolean,
    patience: Patience,
  ): Promise<void> {
    const { idleMs = IDLE_MS, signal } = patience;
    const end = await this.#reach(migrationId, isReachable, patience);
    this.#world.after(0, end.owner, () => end.whole.resolve(life));
    await sleep(this.#random.between(1, 20), signal);
    if (this.#random.chance(this.#conditions.troubles.streamFailure))
      throw new GodwitError("unavailable", "the target's answer was lost");
    for (let waitedMs = 0; waitedMs < idleMs && end.owner?.alive !== false; waitedMs += TRY_MS) {
      if (end.isReachable() && isReachable()) return;
      await sleep(TRY_MS, signal);
    }
    throw new GodwitError("unavailable", "the target does not answer any more");
  }

  /** The source tells the target that nothing more will come. */
  abort(migrationId: string, reason: string, isReachable: () => boolean): void {
    const end = this.#receivers.get(migrationId);
    if (end === undefined || !end.isReachable() || !isReachable()) return;
    const failure = new GodwitError("unavailable", `the source gave up: ${reason}`);
    this.#world.after(0, end.owner, () => {
      end.begun.reject(failure);
      end.whole.reject(failure);
    });
  }
}
