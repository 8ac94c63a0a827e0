import koffi from "koffi";

/** Bytes of a page on x86_64. */
export const PAGE_BYTES = 4096;

const xxh3: (address: number, length: number) => number | bigint = koffi
  .load("libxxhash.so.0")
  .func("uint64_t XXH3_64bits(uintptr_t input, size_t length)");

/**
 * XXH3 (64 bits) of the pages of a buffer that stays where it is: some 5 GB/s, with one call of the C library a
 * page. Debian always has the library, for apt itself needs it.
 */
export class PageHasher {
  readonly #base: number;

  /** @param buffer must not be resized or transferred while this object is in use */
  constructor(buffer: Uint8Array) {
    this.#base = Number(koffi.address(buffer));
  }

  /** Never 0: that stands for "no hash". */
  hash(offset: number): bigint {
    const value = BigInt(xxh3(this.#base + offset, PAGE_BYTES));
    return value === 0n ? 1n : value;
  }
}
