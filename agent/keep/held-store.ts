import { mkdir } from "node:fs/promises";

import type { Logger } from "pino";

import { removeTree } from "../native/remove-tree.ts";
import type { HeldMemory } from "./held-memory.ts";
import { Recording } from "./recording.ts";

/** What containers that have left may take of this host's disk, in all. */
const LIMIT_BYTES = 4 * 1024 ** 3;
/** For how long after a container has left. */
const AGE_MS = 600_000;

export interface HeldStoreTerms {
  readonly folder: string;
  readonly logger: Logger;
  readonly limitBytes?: number;
  readonly ageMs?: number;
}

interface Entry {
  readonly memory: HeldMemory;
  readonly expiry: NodeJS.Timeout;
  lent: boolean;
  /** Removed as soon as it is not lent any more. */
  over: boolean;
}

/** Held pages in the hands of a move: they stay for as long as that needs them. */
export interface Loan extends AsyncDisposable {
  readonly memory: HeldMemory;
  /** They are of no more use: the container has come back with all that it needs. */
  settle(): void;
}

/**
 * What this host holds of containers that have left, for a bounded time and within a bounded size: in a folder that
 * only root can enter, encrypted with keys that are nowhere but in this process. An agent that starts finds nothing
 * that it could read, and deletes what is there.
 */
export class HeldStore implements AsyncDisposable {
  readonly #folder: string;
  readonly #logger: Logger;
  readonly #limitBytes: number;
  readonly #ageMs: number;
  /** The oldest first. */
  readonly #entries = new Map<string, Entry>();
  #recordings = 0;
  #closed = false;

  private constructor({ folder, logger, limitBytes, ageMs }: HeldStoreTerms) {
    this.#folder = folder;
    this.#logger = logger;
    this.#limitBytes = limitBytes ?? LIMIT_BYTES;
    this.#ageMs = ageMs ?? AGE_MS;
  }

  static async open(terms: HeldStoreTerms): Promise<HeldStore> {
    await removeTree(terms.folder);
    await mkdir(terms.folder, { recursive: true, mode: 0o700 });
    return new HeldStore(terms);
  }

  /** For a move that begins. */
  record(containerId: string): Recording {
    this.#recordings += 1;
    return new Recording({
      containerId,
      path: `${this.#folder}/${containerId}-${this.#recordings}.pages`,
      limitBytes: this.#limitBytes,
      logger: this.#logger,
    });
  }

  /** The container has left. Does not wait for the disk. */
  keep(recording: Recording): void {
    void (async () => {
      try {
        await using _ = recording;
        const memory = await recording.memory();
        if (memory !== undefined && !this.#closed) await this.#add(memory);
      } catch (error) {
        this.#logger.error({ err: error }, "the memory of a container that has left is not held");
      }
    })();
  }

  /** The container has not left. Does not wait either. */
  drop(recording: Recording): void {
    recording[Symbol.asyncDispose]().catch((error: unknown) => {
      this.#logger.error({ err: error }, "what was recorded of a container's memory could not be removed");
    });
  }

  /** Older ones go where there is not room for all. */
  async #add(memory: HeldMemory): Promise<void> {
    const id = memory.containerId;
    await this.forget(id);
    for (const [older] of this.#entries) {
      if (this.#bytes + memory.sizeBytes <= this.#limitBytes) break;
      await this.forget(older);
    }
    const expiry = setTimeout(() => {
      this.forget(id).catch((error: unknown) => {
        this.#logger.error({ err: error, container: id }, "what is held of its memory could not be removed");
      });
    }, this.#ageMs);
    expiry.unref();
    this.#entries.set(id, { memory, expiry, lent: false, over: false });
    this.#logger.info({ container: id, bytes: memory.sizeBytes }, "its memory is held for a while");
  }

  get #bytes(): number {
    return this.#entries.values().reduce((sum, { memory }) => sum + memory.sizeBytes, 0);
  }

  /** For a move that brings the container back. */
  lend(containerId: string): Loan | undefined {
    const entry = this.#entries.get(containerId);
    if (entry === undefined || entry.lent) return undefined;
    entry.lent = true;
    return {
      memory: entry.memory,
      settle: () => {
        entry.over = true;
      },
      [Symbol.asyncDispose]: async () => {
        entry.lent = false;
        if (entry.over || entry.memory.isDamaged) await this.#remove(containerId, entry);
      },
    };
  }

  /** Nothing of it is held any more, or as soon as a move that uses it is over. */
  async forget(containerId: string): Promise<void> {
    const entry = this.#entries.get(containerId);
    if (entry === undefined) return;
    entry.over = true;
    if (!entry.lent) await this.#remove(containerId, entry);
  }

  async #remove(containerId: string, entry: Entry): Promise<void> {
    clearTimeout(entry.expiry);
    if (this.#entries.get(containerId) === entry) this.#entries.delete(containerId);
    await entry.memory.remove();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const { expiry } of this.#entries.values()) clearTimeout(expiry);
    this.#entries.clear();
    await removeTree(this.#folder);
  }
}
