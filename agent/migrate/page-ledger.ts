import { joined, type Pages, union } from "../checkpoint/page-runs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";

/** Pages of one 2 MiB block share an array of hashes. */
const BLOCK_PAGES = 512;

interface Space {
  readonly blocks: Map<number, BigUint64Array>;
  /** Blocks that another ledger has too: copied before they are changed. */
  readonly shared: Set<number>;
  /** What `runs` has answered, and the pages that became known since; undefined before it was asked. */
  runs: readonly Pages[] | undefined;
  fresh: Pages[];
}

/**
 * What the target holds of a container's memory: one 64-bit hash a page, by address space and page number. Two
 * different contents of one page in one move collide with a probability of 2^-64. Pure.
 */
export class PageLedger {
  readonly #spaces = new Map<string, Space>();
  #pages = 0;

  /** One that knows the same, and learns on its own from now on; this one is not to be changed any more. */
  fork(): PageLedger {
    const fork = new PageLedger();
    for (const [name, { blocks, runs, fresh }] of this.#spaces)
      fork.#spaces.set(name, {
        blocks: new Map(blocks),
        shared: new Set(blocks.keys()),
        runs,
        fresh: [...fresh],
      });
    fork.#pages = this.#pages;
    return fork;
  }

  get pages(): number {
    return this.#pages;
  }

  /** @param page virtual address / 4096; 0n: the target does not have it */
  get(space: string, page: number): bigint {
    const block = this.#spaces.get(space)?.blocks.get(Math.floor(page / BLOCK_PAGES));
    return block?.[page % BLOCK_PAGES] ?? 0n;
  }

  /** @param hash never 0n */
  set(name: string, page: number, hash: bigint): void {
    let space = this.#spaces.get(name);
    if (space === undefined) {
      space = { blocks: new Map(), shared: new Set(), runs: undefined, fresh: [] };
      this.#spaces.set(name, space);
    }
    const number = Math.floor(page / BLOCK_PAGES);
    let block = space.blocks.get(number);
    if (block === undefined) space.blocks.set(number, (block = new BigUint64Array(BLOCK_PAGES)));
    else if (space.shared.delete(number)) space.blocks.set(number, (block = block.slice()));
    if (block[page % BLOCK_PAGES] === 0n) {
      this.#pages += 1;
      if (space.runs !== undefined) space.fresh.push({ address: page * PAGE_BYTES, pages: 1 });
    }
    block[page % BLOCK_PAGES] = hash;
  }

  /** Asks for all runs once, so that the next time costs only what has become known since. */
  prepareRuns(): void {
    for (const name of this.#spaces.keys()) this.runs(name);
  }

  /** The pages that the target holds, by rising address. */
  runs(name: string): readonly Pages[] {
    const space = this.#spaces.get(name);
    if (space === undefined) return [];
    space.runs = space.runs === undefined ? allRuns(space.blocks) : union(space.runs, joined(space.fresh));
    space.fresh = [];
    return space.runs;
  }
}

function allRuns(blocks: ReadonlyMap<number, BigUint64Array>): Pages[] {
  const runs: { address: number; pages: number }[] = [];
  let next = -1;
  for (const [number, hashes] of [...blocks].sort(([a], [b]) => a - b)) {
    for (let index = 0; index < BLOCK_PAGES; index += 1) {
      if (hashes[index] === 0n) continue;
      const page = number * BLOCK_PAGES + index;
      const last = runs.at(-1);
      if (last !== undefined && page === next) last.pages += 1;
      else runs.push({ address: page * PAGE_BYTES, pages: 1 });
      next = page + 1;
    }
  }
  return runs;
}
