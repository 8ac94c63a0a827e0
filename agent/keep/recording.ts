import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { Worker } from "node:worker_threads";

import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { HeldRun } from "./held-index.ts";
import { HeldMemory } from "./held-memory.ts";
import {
  type FromRecorder,
  HELD_KEY_BYTES,
  type RecorderTerms,
  type ToRecorder,
} from "./recorder-messages.ts";

const SLAB_PAGES = 256;
/** What is on its way to the disk at most. */
const SLABS = 8;
/**
 * A move waits so long in all for its pages to be recorded, and so large a part of the time that it takes; what comes
 * when this is used up is not.
 */
const PATIENCE_MS = 500;
const PATIENCE_PART = 0.2;
const CLOSE_MS = 100;

export interface RecordingTerms {
  readonly containerId: string;
  readonly path: string;
  readonly limitBytes: number;
  readonly logger: Logger;
}

/**
 * Records the pages that a move sends while the container runs, so that they need not be sent back. They are hashed,
 * encrypted and written by a thread of their own. Nothing that goes wrong with it concerns the move: then less is
 * held, or nothing.
 */
export class Recording implements AsyncDisposable {
  readonly #terms: RecordingTerms;
  readonly #key = randomBytes(HELD_KEY_BYTES);
  readonly #worker: Worker;
  readonly #ended: Promise<unknown>;
  readonly #runs: HeldRun[] = [];
  readonly #digests: Uint32Array[] = [];
  readonly #free: ArrayBuffer[] = Array.from(
    { length: SLABS },
    () => new ArrayBuffer(SLAB_PAGES * PAGE_BYTES),
  );
  #slab: ArrayBuffer | undefined;
  #slabPages = 0;
  #pages = 0;
  readonly #beganAt = performance.now();
  #waitedMs = 0;
  #closed = false;
  #ending = false;
  #failed = false;
  #answered = Promise.withResolvers<void>();
  #memory: HeldMemory | undefined;

  constructor(terms: RecordingTerms) {
    this.#terms = terms;
    const workerData: RecorderTerms = { path: terms.path, key: this.#key };
    this.#worker = new Worker(new URL("recorder.ts", import.meta.url), {
      workerData,
      resourceLimits: { maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 4 },
    });
    this.#worker.unref();
    this.#worker.on("message", (message: FromRecorder) => this.#hear(message));
    this.#worker.on("error", (error) => this.#fail(GodwitError.from(error).message));
    this.#ended = once(this.#worker, "exit").catch(() => undefined);
  }

  #hear(message: FromRecorder): void {
    if (message.kind === "failed") {
      this.#fail(message.reason);
      return;
    }
    this.#digests.push(message.digests);
    this.#free.push(message.slab);
    this.#wake();
  }

  #fail(reason: string): void {
    this.#terms.logger.warn(
      { container: this.#terms.containerId, reason },
      "its memory is not held any further",
    );
    this.#failed = true;
    this.#closed = true;
    this.#wake();
  }

  #wake(): void {
    this.#answered.resolve();
    this.#answered = Promise.withResolvers();
  }

  /** Pages that lie one behind the other in `bytes`; they are copied before it resolves. */
  async add(space: string, address: number, bytes: Uint8Array): Promise<void> {
    for (let offset = 0; offset < bytes.byteLength;) {
      this.#slab ??= await this.#freeSlab();
      if (this.#slab === undefined) return;
      const pages = Math.min(SLAB_PAGES - this.#slabPages, (bytes.byteLength - offset) / PAGE_BYTES);
      const part = bytes.subarray(offset, offset + pages * PAGE_BYTES);
      new Uint8Array(this.#slab).set(part, this.#slabPages * PAGE_BYTES);
      this.#runs.push({ space, first: (address + offset) / PAGE_BYTES, pages });
      this.#slabPages += pages;
      offset += part.byteLength;
      if (this.#slabPages === SLAB_PAGES) this.#send();
    }
  }

  async #freeSlab(): Promise<ArrayBuffer | undefined> {
    if ((this.#pages + SLAB_PAGES) * PAGE_BYTES > this.#terms.limitBytes) this.#closed = true;
    if (this.#free.length === 0 && !this.#closed) {
      const beganAt = performance.now();
      const patienceMs = PATIENCE_MS + PATIENCE_PART * (beganAt - this.#beganAt) - this.#waitedMs;
      if (patienceMs < 1) return undefined;
      await Promise.race([this.#answered.promise, delay(patienceMs, undefined, { ref: false })]);
      this.#waitedMs += performance.now() - beganAt;
    }
    return this.#closed ? undefined : this.#free.pop();
  }

  #send(): void {
    const slab = this.#slab;
    if (slab === undefined) return;
    this.#pages += this.#slabPages;
    this.#post({ kind: "record", slab, pages: this.#slabPages }, [slab]);
    this.#slab = undefined;
    this.#slabPages = 0;
  }

  #post(message: ToRecorder, transfer: ArrayBuffer[] = []): void {
    if (!this.#failed) this.#worker.postMessage(message, transfer);
  }

  /**
   * Nothing is added any more. Resolves when all is written, or soon: the container is about to be frozen, and what is
   * left is written at the same time as others work then.
   */
  async close(): Promise<void> {
    if (this.#slabPages > 0) this.#send();
    this.#end();
    await Promise.race([this.#ended, delay(CLOSE_MS, undefined, { ref: false })]);
  }

  #end(): void {
    this.#closed = true;
    if (!this.#ending) this.#post({ kind: "end" });
    this.#ending = true;
  }

  /** After `close`: what is held now, once it is all on the disk. The file is the answer's from then on. */
  async memory(): Promise<HeldMemory | undefined> {
    await this.#ended;
    const { containerId, path } = this.#terms;
    if (this.#failed || this.#pages === 0) return undefined;
    const pages = { runs: this.#runs, digests: this.#digests };
    this.#memory = new HeldMemory(containerId, { path, key: this.#key }, pages);
    return this.#memory;
  }

  /** Without a word about `memory` before, nothing is held. */
  async [Symbol.asyncDispose](): Promise<void> {
    // Not terminated: a thread that is stopped while it loads or calls native code takes the whole agent with it.
    this.#end();
    await this.#ended;
    if (this.#memory === undefined) await rm(this.#terms.path, { force: true });
  }
}
