import type { PageDigest } from "../native/page-hash.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";

/** Pages of one 2 MiB block share arrays. */
const BLOCK_PAGES = 512;
export const DIGEST_WORDS = 4;
const DIGEST_BYTES = 4 * DIGEST_WORDS;
const HEAD_BYTES = 8;
/** Bounds what an index takes in memory: some 160 MB, when hardly two pages are neighbours. */
const MAX_BLOCKS = 16_384;

interface Block {
  readonly digests: Uint32Array;
  readonly slots: Uint32Array;
}

/** Consecutive pages of one address space; `first`: virtual address / 4096. */
export interface HeldRun {
  readonly space: string;
  readonly first: number;
  readonly pages: number;
}

/**
 * Which pages a host holds of a container that has left: for each, by address space and page number, the hash of its
 * content and where it is held. Pure.
 *
 * A page counts as held only where its 128 bits are equal. No two pages of a container have the same by accident. XXH3
 * does not withstand somebody who looks for two pages that do; but the pages compared are one container's own, at one
 * address, so that whoever does this harms the memory of that container, which it could have written to anyway.
 */
export class HeldIndex {
  readonly #spaces = new Map<string, Map<number, Block>>();
  #blocks = 0;

  get isEmpty(): boolean {
    return this.#blocks === 0;
  }

  /** @param at where in `digests` its four words are; a later call for the same page replaces an earlier one */
  set(space: string, page: number, digests: Uint32Array, at: number, slot: number): void {
    const block = this.#block(space, Math.floor(page / BLOCK_PAGES));
    if (block === undefined) return;
    const index = page % BLOCK_PAGES;
    block.digests.set(digests.subarray(at, at + DIGEST_WORDS), index * DIGEST_WORDS);
    block.slots[index] = slot;
  }

  #block(space: string, number: number): Block | undefined {
    let blocks = this.#spaces.get(space);
    const known = blocks?.get(number);
    if (known !== undefined) return known;
    if (this.#blocks >= MAX_BLOCKS) return undefined;
    if (blocks === undefined) this.#spaces.set(space, (blocks = new Map()));
    const made = {
      digests: new Uint32Array(BLOCK_PAGES * DIGEST_WORDS),
      slots: new Uint32Array(BLOCK_PAGES),
    };
    blocks.set(number, made);
    this.#blocks += 1;
    return made;
  }

  holds(space: string, page: number, { a, b, c, d }: PageDigest): boolean {
    const digests = this.#spaces.get(space)?.get(Math.floor(page / BLOCK_PAGES))?.digests;
    if (digests === undefined) return false;
    const at = (page % BLOCK_PAGES) * DIGEST_WORDS;
    return digests[at] === a && digests[at + 1] === b && digests[at + 2] === c && digests[at + 3] === d;
  }

  /** Undefined: not held. */
  slot(space: string, page: number): number | undefined {
    const block = this.#spaces.get(space)?.get(Math.floor(page / BLOCK_PAGES));
    const index = page % BLOCK_PAGES;
    return block !== undefined && isHeld(block, index) ? block.slots[index] : undefined;
  }

  *runs(): Generator<HeldRun> {
    for (const [space, blocks] of this.#spaces) {
      for (const [number, block] of blocks) {
        for (let index = 0; index < BLOCK_PAGES; index += 1) {
          const from = index;
          while (index < BLOCK_PAGES && isHeld(block, index)) index += 1;
          if (index > from) yield { space, first: number * BLOCK_PAGES + from, pages: index - from };
        }
      }
    }
  }

  /** The body of a HELD_PAGES record for one of `runs`. */
  encode({ space, first, pages }: HeldRun): Buffer {
    const body = Buffer.alloc(HEAD_BYTES + pages * DIGEST_BYTES);
    body.writeBigUInt64LE(BigInt(first * PAGE_BYTES), 0);
    const digests = this.#spaces.get(space)?.get(Math.floor(first / BLOCK_PAGES))?.digests;
    const from = (first % BLOCK_PAGES) * DIGEST_WORDS;
    for (let word = 0; word < pages * DIGEST_WORDS; word += 1)
      body.writeUInt32LE(digests?.[from + word] ?? 0, HEAD_BYTES + word * 4);
    return body;
  }

  /** What `encode` has made. False: it makes no sense. */
  decode(space: string, body: Buffer): boolean {
    const pages = (body.byteLength - HEAD_BYTES) / DIGEST_BYTES;
    if (!Number.isInteger(pages) || pages < 1 || pages > BLOCK_PAGES) return false;
    const first = Number(body.readBigUInt64LE(0)) / PAGE_BYTES;
    if (!Number.isInteger(first) || first + pages > Number.MAX_SAFE_INTEGER / PAGE_BYTES) return false;
    const digest = new Uint32Array(DIGEST_WORDS);
    for (let page = 0; page < pages; page += 1) {
      for (let word = 0; word < DIGEST_WORDS; word += 1)
        digest[word] = body.readUInt32LE(HEAD_BYTES + page * DIGEST_BYTES + word * 4);
      this.set(space, first + page, digest, 0, 0);
    }
    return true;
  }
}

/** No hash is all zero. */
function isHeld({ digests }: Block, index: number): boolean {
  const at = index * DIGEST_WORDS;
  return (
    ((digests[at] ?? 0) | (digests[at + 1] ?? 0) | (digests[at + 2] ?? 0) | (digests[at + 3] ?? 0)) !== 0
  );
}
