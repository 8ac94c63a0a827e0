/** Pages of one 2 MiB block share an array of hashes. */
const BLOCK_PAGES = 512;

/**
 * What the target holds of a container's memory: one 64-bit hash a page, by address space and page number. Two
 * different contents of one page in one move collide with a probability of 2^-64. Pure.
 */
export class PageLedger {
  readonly #spaces = new Map<string, Map<number, BigUint64Array>>();
  #pages = 0;

  get pages(): number {
    return this.#pages;
  }

  /** @param page virtual address / 4096 */
  get(space: string, page: number): bigint {
    return this.#spaces.get(space)?.get(Math.floor(page / BLOCK_PAGES))?.[page % BLOCK_PAGES] ?? 0n;
  }

  set(space: string, page: number, hash: bigint): void {
    let blocks = this.#spaces.get(space);
    if (blocks === undefined) this.#spaces.set(space, (blocks = new Map()));
    const block = Math.floor(page / BLOCK_PAGES);
    let hashes = blocks.get(block);
    if (hashes === undefined) blocks.set(block, (hashes = new BigUint64Array(BLOCK_PAGES)));
    if (hashes[page % BLOCK_PAGES] === 0n) this.#pages += 1;
    hashes[page % BLOCK_PAGES] = hash;
  }
}
