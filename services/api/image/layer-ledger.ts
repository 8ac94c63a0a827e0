/**
 * Which layers are stored, which are in use, and which may go. Layers are shared between images, so storing one and
 * taking one away exclude each other layer by layer; an import pins its layers until its image is recorded.
 */
import type { Logger } from "pino";
import { GodwitError } from "../../../proto/contract/error.ts";

export interface StoredLayer {
  readonly object: string;
  readonly modifiedMs: number;
}

/** The part of the image store that the ledger needs. */
export interface LayerObjects {
  has(object: string): Promise<boolean>;
  put(object: string, chunks: AsyncIterable<Buffer>, signal: AbortSignal): Promise<void>;
  delete(object: string): Promise<void>;
  list(): Promise<StoredLayer[]>;
  /** Pieces of uploads that were never finished, none of them younger; returns of how many uploads. */
  deleteFragments(unchangedSinceMs: number): Promise<number>;
}

export interface Pins extends Disposable {
  readonly count: number;
}

/** A layer that nothing names may belong to an import of another process; older than this it belongs to none. */
const ORPHAN_AGE_MS = 3_600_000;

export class LayerLedger {
  readonly #objects: LayerObjects;
  readonly #logger: Logger;
  readonly #pins = new Map<string, number>();
  readonly #turns = new Map<string, Promise<void>>();

  constructor(objects: LayerObjects, logger: Logger) {
    this.#objects = objects;
    this.#logger = logger;
  }

  /** Keeps `objects` from being taken away until the pins are disposed of. */
  pin(objects: readonly string[]): Pins {
    for (const object of objects) this.#pins.set(object, (this.#pins.get(object) ?? 0) + 1);
    return {
      count: objects.length,
      [Symbol.dispose]: () => {
        for (const object of objects) {
          const left = (this.#pins.get(object) ?? 1) - 1;
          if (left === 0) this.#pins.delete(object);
          else this.#pins.set(object, left);
        }
      },
    };
  }

  /** Stores the layer unless it is there already. */
  async store(object: string, open: () => AsyncIterable<Buffer>, signal: AbortSignal): Promise<void> {
    if (!this.#pins.has(object))
      throw new GodwitError("internal", `${object} is stored without being pinned`);
    await this.#inTurn(object, async () => {
      if (!(await this.#objects.has(object))) await this.#objects.put(object, open(), signal);
    });
  }

  /** Takes away those of `candidates` that are neither pinned nor in `referenced()`, which is asked anew for each. */
  async collect(candidates: readonly string[], referenced: () => ReadonlySet<string>): Promise<string[]> {
    const gone: string[] = [];
    for (const object of candidates) {
      await this.#inTurn(object, async () => {
        if (this.#pins.has(object) || referenced().has(object)) return;
        await this.#objects.delete(object);
        gone.push(object);
      });
    }
    if (gone.length > 0)
      this.#logger.info({ layers: gone }, "layers that no image holds any more were deleted");
    return gone;
  }

  /** Takes away what a crash left behind: layers that nothing refers to and that have been there for long. */
  async sweep(referenced: () => ReadonlySet<string>, nowMs: number): Promise<string[]> {
    const uploads = await this.#objects.deleteFragments(nowMs - ORPHAN_AGE_MS);
    if (uploads > 0) this.#logger.info({ uploads }, "pieces of layers whose upload was cut off were deleted");
    const old = (await this.#objects.list()).filter((layer) => nowMs - layer.modifiedMs > ORPHAN_AGE_MS);
    return this.collect(
      old.map((layer) => layer.object),
      referenced,
    );
  }

  async #inTurn(object: string, work: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(object) ?? Promise.resolve();
    const { promise: done, resolve } = Promise.withResolvers<void>();
    const turn = before.then(() => done);
    this.#turns.set(object, turn);
    try {
      await before;
      await work();
    } finally {
      resolve();
      if (this.#turns.get(object) === turn) this.#turns.delete(object);
    }
  }
}
