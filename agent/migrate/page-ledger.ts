/** Pages of one 2 MiB block share an array of hashes. */
const BLOCK_PAGES = 512;

interface Block {
  readonly hashes: BigUint64Array;
  known: number;
}

/**
 * What the target holds of a container's memory: one 64-bit hash a page, by address space and page number. Two
 * different contents of one page in one move collide with a probability of 2^-64. Pure.
 */
export class PageLedger {
  readonly #spaces = new Map<string, Map<number, Block>>();
  #pages = 0;

  get pages(): number {
    return this.#pages;
  }

  /** @param page virtual address / 4096; 0n: the target does not have it */
  get(space: string, page: number): bigint {
    return this.#spaces.get(space)?.get(Math.floor(page / BLOCK_PAGES))?.hashes[page % BLOCK_PAGES] ?? 0n;
  }

  /** @param hash never 0n */
  set(space: string, page: number, hash: bigint): void {
    let blocks = this.#spaces.get(space);
    if (blocks === undefined) this.#spaces.set(space, (blocks = new Map()));
    const number = Math.floor(page / BLOCK_PAGES);
    let block = blocks.get(number);
    if (block === undefined) {
      block = { hashes: new BigUint64Array(BLOCK_PAGES), known: 0 };
      blocks.set(number, block);
    }
    if (block.hashes[page % BLOCK_PAGES] === 0n) {
      block.known += 1;
      this.#pages += 1;
    }
    block.hashes[page % BLOCK_PAGES] = hash;
  }

  /** Splits consecutive pages into those that the target has and those that it has not. */
  *split(
    space: string,
    first: number,
    pages: number,
  ): Generator<{ first: number; pages: number; known: boolean }> {
    const blocks = this.#spaces.get(space);
    const end = first + pages;
    let from = first;
    let known: boolean | undefined;
    for (let page = first; page < end;) {
      const block = blocks?.get(Math.floor(page / BLOCK_PAGES));
      const whole = block === undefined || block.known === BLOCK_PAGES;
      const here = block !== undefined && (whole || block.hashes[page % BLOCK_PAGES] !== 0n);
      if (known !== undefined && here !== known) {
        yield { first: from, pages: page - from, known };
        from = page;
      }
      known = here;
      page = whole ? Math.min(end, (Math.floor(page / BLOCK_PAGES) + 1) * BLOCK_PAGES) : page + 1;
    }
    if (known !== undefined) yield { first: from, pages: end - from, known };
  }
}
