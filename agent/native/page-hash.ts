import koffi from "koffi";

/** Bytes of a page on x86_64. */
export const PAGE_BYTES = 4096;

const library = koffi.load("libxxhash.so.0");
const xxh3: (address: number, length: number) => number | bigint = library.func(
  "uint64_t XXH3_64bits(uintptr_t input, size_t length)",
);

/** 128 bits as four words; never all zero. */
export interface PageDigest {
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly d: number;
}
const xxh3Wide: (address: number, length: number) => PageDigest = library.func(
  "XXH3_128bits",
  koffi.struct({ a: "uint32_t", b: "uint32_t", c: "uint32_t", d: "uint32_t" }),
  ["uintptr_t", "size_t"],
);

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

  /** By which two hosts tell each other that they hold the same page, or the same block of a file. */
  digest(offset: number, bytes = PAGE_BYTES): PageDigest {
    const digest = xxh3Wide(this.#base + offset, bytes);
    return (digest.a | digest.b | digest.c | digest.d) === 0 ? { ...digest, d: 1 } : digest;
  }
}
