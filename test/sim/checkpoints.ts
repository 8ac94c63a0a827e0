/** What a simulated host keeps of other hosts' containers: in the place of the agent's store, with names for files. */
import { GodwitError } from "../../proto/contract/error.ts";
import {
  CheckpointPhase,
  CheckpointReport,
  type KeptCheckpoint,
} from "../../proto/gen/godwit/v1/checkpoint.ts";
import { context, isReachable } from "./context.ts";
import type { Machine } from "./machine.ts";
import { within } from "./replaced/target.ts";
import { sleep } from "./replaced/timers.ts";

const TRIES = 3;
const AGAIN_MS = 1_000;
const SOURCE_SILENT_MS = 300_000;
const SOURCE_AGAIN_MS = 90_000;

/** Waits for the other end, and not for ever. */
const heard = async (piece: Promise<unknown>, idleMs: number, signal: AbortSignal): Promise<void> => {
  const silent = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => silent.reject(new GodwitError("unavailable", "the source does not answer")),
    idleMs,
  );
  try {
    await within(Promise.race([piece, silent.promise]), signal);
  } finally {
    clearTimeout(timer);
  }
};

export const checkpointStream = (id: string, keeper: string): string => `${id}-${keeper}`;

interface Reception {
  readonly abort: AbortController;
  error: string;
}

export class SimCheckpoints {
  readonly #machine: Machine;
  readonly #changed: () => void;
  readonly #receptions = new Map<string, Reception>();
  #wanted = new Set<string>();

  /** That an earlier agent of this host had begun to take. */
  readonly #cutOff: Set<string>;

  constructor(machine: Machine, changed: () => void) {
    this.#machine = machine;
    this.#changed = changed;
    this.#cutOff = new Set(machine.spool);
  }

  wasCutOff(id: string): boolean {
    return this.#cutOff.has(id);
  }
  removeSpool(id: string): void {
    this.#machine.spool.delete(id);
  }
  forgetCutOff(isOrdered: (id: string) => boolean): void {
    for (const id of this.#cutOff)
      if (!isOrdered(id)) {
        this.removeSpool(id);
        this.#cutOff.delete(id);
      }
  }

  path(id: string): string | undefined {
    return this.#machine.kept.has(id) ? id : undefined;
  }

  follow(kept: readonly KeptCheckpoint[]): void {
    const { kernel } = context();
    this.#wanted = new Set(kept.map(({ id }) => id));
    for (const [id, { abort }] of this.#receptions) {
      if (this.#wanted.has(id)) continue;
      abort.abort(new GodwitError("cancelled", "the checkpoint is no longer wanted"));
      this.#receptions.delete(id);
    }
    for (const id of this.#machine.kept) if (!this.#wanted.has(id)) kernel.dropCheckpoint(this.#machine, id);
    for (const { id } of kept)
      if (!this.#machine.kept.has(id) && !this.#receptions.has(id)) void this.#receive(id);
  }

  reports(): CheckpointReport[] {
    return [...this.#wanted].map((id) => {
      if (this.#machine.kept.has(id))
        return CheckpointReport.fromPartial({ id, phase: CheckpointPhase.STORED, sizeBytes: 10 });
      const error = this.#receptions.get(id)?.error ?? "";
      const phase = error === "" ? CheckpointPhase.TAKING : CheckpointPhase.FAILED;
      return CheckpointReport.fromPartial({ id, phase, error });
    });
  }

  async #receive(id: string): Promise<void> {
    const reception: Reception = { abort: new AbortController(), error: "" };
    this.#receptions.set(id, reception);
    const { signal } = reception.abort;
    for (let attempt = 1; !signal.aborted; attempt += 1) {
      try {
        await this.#receiveOnce(id, attempt === 1 ? SOURCE_SILENT_MS : SOURCE_AGAIN_MS, signal);
        this.#receptions.delete(id);
        this.#changed();
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (attempt === TRIES) {
          reception.error = GodwitError.from(error).message;
          this.#changed();
          return;
        }
        await sleep(AGAIN_MS);
      }
    }
  }

  async #receiveOnce(id: string, idleMs: number, signal: AbortSignal): Promise<void> {
    const { conditions, hub, random, world } = context();
    const machine = this.#machine;
    using receiver = hub.receive(checkpointStream(id, machine.name), () => isReachable(machine));
    for (const piece of [receiver.begun, receiver.whole]) await heard(piece.promise, idleMs, signal);
    await sleep(conditions.diskMs(random), signal);
    machine.writes();
    machine.kept.add(id);
    world.trace(`${machine.name} keeps checkpoint ${id}`);
  }
}
