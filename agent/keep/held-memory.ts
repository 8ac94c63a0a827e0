import { createDecipheriv } from "node:crypto";
import { type FileHandle, open, rm } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { PAGE_BYTES, PageHasher } from "../native/page-hash.ts";
import { DIGEST_WORDS, HeldIndex, type HeldRun } from "./held-index.ts";
import { HELD_CIPHER } from "./recorder-messages.ts";

/** One read brings at most so many pages. */
const READ_PAGES = 256;
const CIPHER_BLOCK_BYTES = 16;
/** Of what is removed, so much at once, and a pause after it. */
const GIVEN_BACK_BYTES = 64 * 1024 * 1024;
const PAUSE_MS = 50;

/** Pages in the order in which they lie in the file. */
export interface RecordedPages {
  readonly runs: readonly HeldRun[];
  readonly digests: readonly Uint32Array[];
}

/** What this host holds of the memory of a container that has left: a file of encrypted pages, and their hashes. */
export class HeldMemory {
  readonly containerId: string;
  readonly sizeBytes: number;
  readonly #path: string;
  readonly #key: Uint8Array;
  readonly #pages: RecordedPages;
  #index: HeldIndex | undefined;
  /** Not all of it is any more what was recorded. */
  isDamaged = false;

  constructor(
    containerId: string,
    file: { readonly path: string; readonly key: Uint8Array },
    pages: RecordedPages,
  ) {
    this.containerId = containerId;
    this.#path = file.path;
    this.#key = file.key;
    this.#pages = pages;
    this.sizeBytes = pages.runs.reduce((sum, run) => sum + run.pages * PAGE_BYTES, 0);
  }

  get index(): HeldIndex {
    this.#index ??= this.#makeIndex();
    return this.#index;
  }

  #makeIndex(): HeldIndex {
    const index = new HeldIndex();
    const places = this.#pages.digests.values();
    let digests = new Uint32Array(0) as Uint32Array;
    let at = 0;
    let slot = 0;
    for (const { space, first, pages } of this.#pages.runs) {
      for (let page = first; page < first + pages; page += 1) {
        if (at === digests.length) {
          const next = places.next();
          if (next.done === true) return index;
          digests = next.value;
          at = 0;
        }
        index.set(space, page, digests, at, slot);
        at += DIGEST_WORDS;
        slot += 1;
      }
    }
    return index;
  }

  /**
   * The content of pages that the index says are held. Throws `corrupt` for those that it does not, and for what is
   * not any more what was recorded.
   */
  async *read({ space, first, pages }: HeldRun): AsyncGenerator<Buffer, void, undefined> {
    await using file = await open(this.#path, "r");
    for (let done = 0; done < pages;) {
      const slot = this.#slot(space, first + done);
      let count = 1;
      while (
        count < READ_PAGES &&
        done + count < pages &&
        this.#slot(space, first + done + count) === slot + count
      )
        count += 1;
      const sealed = Buffer.allocUnsafeSlow(count * PAGE_BYTES);
      const { bytesRead } = await file.read(sealed, 0, sealed.byteLength, slot * PAGE_BYTES);
      const content = this.#open(sealed, slot);
      const hasher = new PageHasher(content);
      for (let page = 0; page < count; page += 1) {
        if (
          bytesRead !== sealed.byteLength ||
          !this.index.holds(space, first + done + page, hasher.digest(page * PAGE_BYTES))
        ) {
          this.isDamaged = true;
          throw new GodwitError(
            "corrupt",
            "what this host held of the container's memory is damaged; try the move again",
          );
        }
      }
      yield content;
      done += count;
    }
  }

  #slot(space: string, page: number): number {
    const slot = this.index.slot(space, page);
    if (slot === undefined)
      throw new GodwitError("corrupt", "a reference to a page that this host does not hold");
    return slot;
  }

  #open(sealed: Buffer, slot: number): Buffer {
    const counter = Buffer.alloc(CIPHER_BLOCK_BYTES);
    counter.writeBigUInt64BE(BigInt((slot * PAGE_BYTES) / CIPHER_BLOCK_BYTES), 8);
    return createDecipheriv(HELD_CIPHER, this.#key, counter).update(sealed);
  }

  /** Does not wait until the disk has all of it back. Idempotent. */
  async remove(): Promise<void> {
    const file = await open(this.#path, "r+").catch(() => undefined);
    await rm(this.#path, { force: true });
    // Without a name it goes with its descriptor in any case.
    if (file !== undefined) giveBack(file).catch(() => undefined);
  }
}

/** Gigabytes at once would keep a core busy just when a container that has come back needs it. */
async function giveBack(file: FileHandle): Promise<void> {
  try {
    for (let { size } = await file.stat(); size > 0; size -= GIVEN_BACK_BYTES) {
      await file.truncate(Math.max(0, size - GIVEN_BACK_BYTES));
      await delay(PAUSE_MS, undefined, { ref: false });
    }
  } finally {
    await file.close();
  }
}
