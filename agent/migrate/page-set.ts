import { PAGE_BYTES } from "../native/page-hash.ts";

const BLOCK_PAGES = 4096;

/** A set of pages, one bit each. Pure. */
export class PageSet {
  readonly #blocks = new Map<number, Uint8Array>();

  /** Answers whether it was not in it. */
  add(address: number): boolean {
    const page = address / PAGE_BYTES;
    const number = Math.floor(page / BLOCK_PAGES);
    let block = this.#blocks.get(number);
    if (block === undefined) this.#blocks.set(number, (block = new Uint8Array(BLOCK_PAGES / 8)));
    const place = page % BLOCK_PAGES;
    const [at, bit] = [place >> 3, 1 << (place & 7)];
    const before = block[at] ?? 0;
    block[at] = before | bit;
    return (before & bit) === 0;
  }
}
