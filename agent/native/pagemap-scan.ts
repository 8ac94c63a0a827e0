import koffi from "koffi";

import { addressOf } from "./sockets.ts";

/** ioctl(PAGEMAP_SCAN), Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst): finds pages by what they are. */
const ioctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, void *argument)");

const PAGEMAP_SCAN = 0xc060_6610;
const ARGUMENT_BYTES = 96;
const REGION_WORDS = 3;
const REGION_BYTES = REGION_WORDS * 8;
const REGIONS = 4096;
/** One call looks at no more than this: a millisecond's work or two. */
const STEP_BYTES = 128 * 1024 * 1024;
const WP_MATCHING = 1n;
const CHECK_WPASYNC = 2n;

const Page = {
  written: 1n << 1n,
  file: 1n << 2n,
  present: 1n << 3n,
  swapped: 1n << 4n,
  zero: 1n << 5n,
} as const;
const WRITTEN = Number(Page.written);

export interface AddressRange {
  readonly start: number;
  readonly end: number;
}

export interface ScanOptions extends AddressRange {
  /**
   * "all": every page with content of its own. "written-reset": of these, those that are not write-protected, and
   * protects them in the same step. "all-reset": protects them, and finds all. Where writes are not tracked, all three
   * find all, and protect nothing.
   */
  readonly pages: "all" | "written-reset" | "all-reset";
}

export interface FoundRange extends AddressRange {
  /** Not write-protected; without tracking every page. Neighbours may be alike. */
  readonly written: boolean;
}

/** Room for the answers of one scan after the other. */
export class PagemapScanner {
  readonly #argument = Buffer.alloc(ARGUMENT_BYTES);
  readonly #regions = Buffer.allocUnsafeSlow(REGIONS * REGION_BYTES);
  readonly #regionsAddress = addressOf(this.#regions);
  /** Each region's start, end and kind, of two halves each, the lower one first: BigInts would be thousands of objects. */
  readonly #halves = new Uint32Array(
    this.#regions.buffer,
    this.#regions.byteOffset,
    REGIONS * REGION_WORDS * 2,
  );

  /** Whether writes to all of a mapping are tracked at this moment. */
  isTracked(pagemap: number, { start, end }: AddressRange): boolean {
    const argument = this.#argument.fill(0);
    argument.writeBigUInt64LE(BigInt(ARGUMENT_BYTES), 0);
    argument.writeBigUInt64LE(CHECK_WPASYNC, 8);
    argument.writeBigUInt64LE(BigInt(start), 16);
    argument.writeBigUInt64LE(BigInt(end), 24);
    argument.writeBigUInt64LE(BigInt(this.#regionsAddress), 40);
    argument.writeBigUInt64LE(1n, 48);
    argument.writeBigUInt64LE(1n, 56);
    argument.writeBigUInt64LE(Page.present, 72);
    argument.writeBigUInt64LE(Page.present, 88);
    return ioctl(pagemap, PAGEMAP_SCAN, argument) >= 0;
  }

  /**
   * Pages that a checkpoint would carry: in memory or swapped out, neither a file's nor the zero page.
   * @param pagemap an open /proc/PID/pagemap
   * @throws errno EINVAL or ENOTTY on a kernel without it; ESRCH never: a process that is gone has no pages
   */
  *scan(pagemap: number, options: ScanOptions): Generator<FoundRange> {
    let ranges: FoundRange[] = [];
    for (const _ of this.steps(pagemap, options, (start, end, written) =>
      ranges.push({ start, end, written }),
    )) {
      yield* ranges;
      ranges = [];
    }
  }

  /** The same with a step for each call of the kernel: what that has found was told before. */
  *steps(
    pagemap: number,
    options: ScanOptions,
    tell: (start: number, end: number, written: boolean) => void,
  ): Generator<void> {
    let { pages, start: at } = options;
    const argument = this.#argument;
    while (at < options.end) {
      argument.writeBigUInt64LE(BigInt(ARGUMENT_BYTES), 0);
      argument.writeBigUInt64LE(pages === "all" ? 0n : WP_MATCHING | CHECK_WPASYNC, 8);
      argument.writeBigUInt64LE(BigInt(at), 16);
      const end = Math.min(options.end, at + STEP_BYTES);
      argument.writeBigUInt64LE(BigInt(end), 24);
      argument.writeBigUInt64LE(0n, 32);
      argument.writeBigUInt64LE(BigInt(this.#regionsAddress), 40);
      argument.writeBigUInt64LE(BigInt(REGIONS), 48);
      argument.writeBigUInt64LE(0n, 56);
      argument.writeBigUInt64LE(Page.zero | Page.file, 64);
      const wanted = pages === "written-reset" ? Page.written : 0n;
      argument.writeBigUInt64LE(Page.zero | Page.file | wanted, 72);
      argument.writeBigUInt64LE(Page.present | Page.swapped, 80);
      argument.writeBigUInt64LE(Page.present | Page.written, 88);
      const found = ioctl(pagemap, PAGEMAP_SCAN, argument);
      if (found < 0) {
        if (koffi.errno() === ESRCH) return;
        if (koffi.errno() === EPERM && pages !== "all") {
          // Some of it may have been protected already, and nobody will say which: from here on all of it counts.
          pages = "all";
          continue;
        }
        throw new Error(`ioctl(PAGEMAP_SCAN): errno ${koffi.errno()}`);
      }
      const next = Number(argument.readBigUInt64LE(32));
      const halves = this.#halves;
      let last = 0;
      for (let index = 0; index < found; index += 1) {
        const word = index * REGION_WORDS * 2;
        const start = (halves[word] ?? 0) + (halves[word + 1] ?? 0) * 2 ** 32;
        last = (halves[word + 2] ?? 0) + (halves[word + 3] ?? 0) * 2 ** 32;
        tell(start, last, ((halves[word + 4] ?? 0) & WRITTEN) !== 0);
      }
      yield;
      // The kernel's word for how far it came falls short when its own buffer was full at the very end.
      const reached = Math.max(next, last);
      if (reached <= at) return;
      at = reached;
    }
  }
}

const EPERM = 1;
const ESRCH = 3;
