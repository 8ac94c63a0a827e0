import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs";

import koffi from "koffi";

import { PAGE_BYTES } from "../native/page-hash.ts";
import { type AddressRange, PagemapScanner } from "../native/pagemap-scan.ts";
import { enableWriteTracking, openUserfaultfd, trackWrites } from "../native/userfaultfd.ts";

/**
 * How this host finds the pages that a running process has written since they were copied.
 * - "write-protect": the kernel write-protects what was copied and notes who is written (userfaultfd with
 *   UFFD_FEATURE_WP_ASYNC and PAGEMAP_SCAN, Linux 6.7).
 * - "soft-dirty": the kernel marks pages that are written (CONFIG_MEM_SOFT_DIRTY), and CRIU itself reads the marks.
 * - "compare": neither; every page is read and its hash compared.
 */
export type WriteTracking =
  | { readonly kind: "write-protect"; readonly criuLibrary: string }
  | { readonly kind: "soft-dirty" }
  | { readonly kind: "compare"; readonly reason: string };

const libc = koffi.load(null);
const mmap = libc.func(
  "intptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int fd, intptr_t offset)",
);
const munmap = libc.func("int munmap(uintptr_t address, size_t length)");
const mremap = libc.func(
  "intptr_t mremap(uintptr_t address, size_t old_length, size_t length, int flags, uintptr_t to)",
);
const memset = libc.func("void *memset(uintptr_t address, int value, size_t length)");

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const MREMAP_MAYMOVE_FIXED = 3;
const SOFT_DIRTY_BYTE = 6;
const SOFT_DIRTY_BIT = 0x80;

/** @param criuLibrary deploy/criu/tracking.c as it was built for this host; need not be there */
export function detectWriteTracking(criuLibrary: string): WriteTracking {
  if (marksSoftDirty()) return { kind: "soft-dirty" };
  const missing = whyNoWriteProtection();
  if (missing !== undefined) return { kind: "compare", reason: missing };
  if (statSync(criuLibrary, { throwIfNoEntry: false }) === undefined)
    return { kind: "compare", reason: `${criuLibrary} is missing; run deploy/setup.sh` };
  return { kind: "write-protect", criuLibrary };
}

/**
 * Whether deploy/criu/tracking.c is of use on this host.
 * @public deploy/setup.sh asks.
 */
export function canWriteProtect(): boolean {
  return !marksSoftDirty() && whyNoWriteProtection() === undefined;
}

/** Two pages, both written, at a place of their own. */
function withPages<T>(body: (pages: AddressRange) => T): T {
  const length = 2 * PAGE_BYTES;
  const start = Number(mmap(0, length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  if (start < 0) throw new Error(`mmap: errno ${koffi.errno()}`);
  try {
    memset(start, 1, length);
    return body({ start, end: start + length });
  } finally {
    munmap(start, length);
  }
}

function marksSoftDirty(): boolean {
  return withPages(({ start }) => {
    try {
      const clear = openSync("/proc/self/clear_refs", "w");
      writeSync(clear, "4");
      closeSync(clear);
    } catch {
      return false;
    }
    memset(start, 2, 1);
    const pagemap = openSync("/proc/self/pagemap", "r");
    const entry = Buffer.alloc(8);
    readSync(pagemap, entry, 0, 8, (start / PAGE_BYTES) * 8);
    closeSync(pagemap);
    return ((entry[SOFT_DIRTY_BYTE] ?? 0) & SOFT_DIRTY_BIT) !== 0;
  });
}

/** Tries it on this very process, including what kernels before 6.14 got wrong: pages that are moved. */
function whyNoWriteProtection(): string | undefined {
  const scanner = new PagemapScanner();
  const pagemap = openSync("/proc/self/pagemap", "r");
  let userfaultfd = -1;
  try {
    userfaultfd = openUserfaultfd();
    enableWriteTracking(userfaultfd);
    return withPages((pages) => {
      if (!trackWrites(userfaultfd, pages)) return "the kernel write-protects no anonymous memory";
      const written = (range: AddressRange, how: "written" | "written-reset"): number =>
        [...scanner.scan(pagemap, { ...range, pages: how === "written" ? "all" : how })]
          .filter((found) => how === "written-reset" || found.written)
          .reduce((sum, { start, end }) => sum + (end - start) / PAGE_BYTES, 0);
      if (written(pages, "written-reset") !== 2 || written(pages, "written") !== 0)
        return "the kernel does not keep written pages apart";
      memset(pages.start, 2, 1);
      if (written(pages, "written") !== 1) return "the kernel misses a write";
      return withPages((other) => {
        mremap(pages.start, 2 * PAGE_BYTES, 2 * PAGE_BYTES, MREMAP_MAYMOVE_FIXED, other.start);
        return written(other, "written") === 2
          ? undefined
          : "the kernel takes moved pages for unchanged ones";
      });
    });
  } catch (error) {
    return (error as Error).message;
  } finally {
    closeSync(pagemap);
    if (userfaultfd >= 0) closeSync(userfaultfd);
  }
}
