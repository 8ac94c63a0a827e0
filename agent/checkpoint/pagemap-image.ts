import { BinaryReader } from "@bufbuild/protobuf/wire";

import { MmEntry, PagemapHead } from "../../proto/gen/criu/images.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { splitByRanges } from "./split-ranges.ts";

/** CRIU's pagemap and mm image files: two magic numbers, then messages with a 32-bit length before each. Pure. */
const COMMON_MAGIC = 0x54564319;
const PAGEMAP_MAGIC = 0x56084025;
const MM_MAGIC = 0x57492820;

export const PageFlag = { parent: 1, lazy: 2, present: 4 } as const;

export interface PagemapRun {
  readonly address: number;
  readonly pages: number;
  readonly flags: number;
}

/** Length, four tags, and four numbers of at most 53 bits. */
const MAXIMUM_ENTRY_BYTES = 4 + 4 + 4 * 8;

/** A pagemap file whose content is pages-<pagesId>.img; runs by rising address. */
export function encodePagemap(pagesId: number, runs: readonly PagemapRun[]): Buffer {
  const head = PagemapHead.encode({ pagesId }).finish();
  const start = Buffer.concat([words(COMMON_MAGIC, PAGEMAP_MAGIC, head.byteLength), head]);
  const image = Buffer.allocUnsafe(start.byteLength + runs.length * MAXIMUM_ENTRY_BYTES);
  let at = start.copy(image);
  // By hand: thousands of entries in the time in which a container stands still. And a library would leave out what is
  // 0: shared memory begins at address 0, and CRIU requires it.
  for (const { address, pages, flags } of runs) {
    const body = at + 4;
    let end = writeField(image, body, 1, address);
    end = writeField(image, end, 2, pages);
    end = writeField(image, end, 4, flags);
    end = writeField(image, end, 5, pages);
    image.writeUInt32LE(end - body, at);
    at = end;
  }
  return image.subarray(0, at);
}

/** Of type varint, at `at`; answers where it ends. */
function writeField(image: Buffer, at: number, field: number, value: number): number {
  let end = at;
  image[end++] = field << 3;
  let rest = value;
  while (rest >= 0x80) {
    image[end++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  image[end++] = rest;
  return end;
}

const MAP_PRIVATE = 0x02;
const MAP_ANONYMOUS = 0x20;
const MAP_LOCKED = 0x2000;
const MAP_HUGETLB = 0x40000;
/** Status bits of mappings that the kernel itself provides: vsyscall, vdso and vvar. */
const KERNEL_AREAS = (1 << 2) | (1 << 3) | (1 << 12);

/** Of the bits of a mapping's advice: what a child is not to have, or to have empty. Only madvise(2) itself knows. */
const NOT_FOR_CHILDREN = (1n << 10n) | (1n << 18n);

/**
 * The mappings of an mm file that can be filled on demand, by rising address: those that CRIU leaves to it (its rule
 * vma_entry_can_be_lazy), but for those that a fork does not copy.
 */
export function lazyRanges(mmImage: Uint8Array): AddressRange[] {
  const view = new DataView(mmImage.buffer, mmImage.byteOffset, mmImage.byteLength);
  if (view.getUint32(0, true) !== COMMON_MAGIC || view.getUint32(4, true) !== MM_MAGIC) return [];
  const length = view.getUint32(8, true);
  const { vmas } = MmEntry.decode(new BinaryReader(mmImage.subarray(12, 12 + length)));
  return vmas
    .map(decodeMapping)
    .filter(
      ({ flags, status, advice }) =>
        (flags & MAP_ANONYMOUS) !== 0 &&
        (flags & MAP_PRIVATE) !== 0 &&
        (flags & (MAP_LOCKED | MAP_HUGETLB)) === 0 &&
        (status & KERNEL_AREAS) === 0 &&
        (advice & NOT_FOR_CHILDREN) === 0n,
    )
    .map(({ start, end }) => ({ start, end }))
    .toSorted((a, b) => a.start - b.start);
}

/** Of CRIU's vma_entry: 1 start, 2 end, 6 flags, 7 status, 9 madv. */
function decodeMapping(bytes: Uint8Array): AddressRange & { flags: number; status: number; advice: bigint } {
  const mapping = { start: 0, end: 0, flags: 0, status: 0, advice: 0n };
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) mapping.start = Number(reader.uint64());
    else if (field === 2) mapping.end = Number(reader.uint64());
    else if (field === 6) mapping.flags = reader.uint32();
    else if (field === 7) mapping.status = reader.uint32();
    else if (field === 9) mapping.advice = BigInt(reader.uint64());
    else reader.skip(wireType);
  }
  return mapping;
}

/**
 * Splits runs at the ranges' borders and marks those inside as fillable on demand, which leaves out where they come
 * from: CRIU passes over them, and the filler knows.
 * @param ranges by rising address
 */
export function markLazy(runs: readonly PagemapRun[], ranges: readonly AddressRange[]): PagemapRun[] {
  return runs.flatMap((run) =>
    Array.from(splitByRanges(run, ranges), ({ address, pages, inside }) => ({
      address,
      pages,
      flags: inside ? (run.flags & PageFlag.present) | PageFlag.lazy : run.flags,
    })),
  );
}

function words(...values: number[]): Uint8Array {
  const bytes = Buffer.alloc(values.length * 4);
  values.forEach((value, index) => bytes.writeUInt32LE(value, index * 4));
  return bytes;
}
