import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { MmEntry, PagemapEntry } from "../../proto/gen/criu/images.ts";
import { encodePagemap, lazyRanges, markLazy, PageFlag, type PagemapRun } from "./pagemap-image.ts";

const PAGE = 4096;

describe("markLazy", () => {
  const present = (page: number, pages: number): PagemapRun => ({
    address: page * PAGE,
    pages,
    flags: PageFlag.present,
  });
  const range = (from: number, to: number) => ({ start: from * PAGE, end: to * PAGE });

  test("splits at the borders, and leaves what is outside as it was", () => {
    const marked = markLazy(
      [present(1, 8), { address: 20 * PAGE, pages: 2, flags: PageFlag.parent }],
      [range(3, 5), range(20, 30)],
    );
    expect(marked).toEqual([
      present(1, 2),
      { ...present(3, 2), flags: PageFlag.present | PageFlag.lazy },
      present(5, 4),
      { address: 20 * PAGE, pages: 2, flags: PageFlag.lazy },
    ]);
  });

  test("covers the same pages, in order, each with the right mark", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.nat(60), { maxLength: 40 }),
        fc.uniqueArray(fc.nat(60), { maxLength: 12 }),
        (pages, borders) => {
          const runs = pages.toSorted((a, b) => a - b).map((page) => present(page, 1));
          const sorted = borders.toSorted((a, b) => a - b);
          const ranges: { start: number; end: number }[] = [];
          for (let at = 0; at + 1 < sorted.length; at += 2)
            ranges.push(range(sorted[at] ?? 0, sorted[at + 1] ?? 0));
          const marked = markLazy(runs, ranges).flatMap(({ address, pages: count, flags }) =>
            Array.from({ length: count }, (_, index) => ({ address: address + index * PAGE, flags })),
          );
          expect(marked).toEqual(
            runs.map(({ address }) => ({
              address,
              flags: ranges.some(({ start, end }) => start <= address && address < end)
                ? PageFlag.present | PageFlag.lazy
                : PageFlag.present,
            })),
          );
        },
      ),
    );
  });
});

describe("lazyRanges", () => {
  const words = (...values: number[]): Buffer => {
    const bytes = Buffer.alloc(values.length * 4);
    values.forEach((value, index) => bytes.writeUInt32LE(value, index * 4));
    return bytes;
  };
  const varint = (value: bigint): number[] => {
    const bytes: number[] = [];
    let rest = value;
    for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
    return [...bytes, Number(rest)];
  };
  const mapping = (start: bigint, end: bigint, flags: number, status: number): Buffer =>
    Buffer.from([
      8,
      ...varint(start),
      16,
      ...varint(end),
      48,
      ...varint(BigInt(flags)),
      56,
      ...varint(BigInt(status)),
    ]);

  test("takes private anonymous memory, and leaves what is locked, shared, huge or the kernel's", () => {
    const mm = MmEntry.encode({
      vmas: [
        mapping(0x7000n, 0x9000n, 0x22, 1),
        mapping(0x1000n, 0x2000n, 0x22, 1 | 32),
        mapping(0x3000n, 0x4000n, 0x2022, 1),
        mapping(0x4000n, 0x5000n, 0x21, 1),
        mapping(0x5000n, 0x6000n, 0x02, 1),
        mapping(0xa000n, 0xb000n, 0x40022, 1),
        mapping(0xffffffffff600000n, 0xffffffffff601000n, 0x22, 1 | 4),
      ],
    }).finish();
    const image = Buffer.concat([words(0x54564319, 0x57492820, mm.byteLength), mm]);
    expect(lazyRanges(image)).toEqual([
      { start: 0x1000, end: 0x2000 },
      { start: 0x7000, end: 0x9000 },
    ]);
  });
});

test("a pagemap image is magic numbers and length-prefixed messages, with every required field", () => {
  const image = encodePagemap(3, [{ address: 0x1000, pages: 2, flags: PageFlag.present }]);
  expect(image.toString("hex")).toBe(
    "19435654" + "25400856" + "02000000" + "0803" + "09000000" + "088020" + "1002" + "2004" + "2802",
  );
});

test("what is written can be read, whatever the numbers", () => {
  const run = fc.record({
    address: fc.integer({ min: 0, max: 2 ** 35 }).map((page) => page * PAGE),
    pages: fc.integer({ min: 1, max: 2 ** 31 }),
    flags: fc.integer({ min: 0, max: 7 }),
  });
  fc.assert(
    fc.property(fc.array(run), (runs) => {
      const image = encodePagemap(1, runs);
      const read: PagemapRun[] = [];
      let at = 12 + image.readUInt32LE(8);
      while (at < image.length) {
        const end = at + 4 + image.readUInt32LE(at);
        const entry = PagemapEntry.decode(image.subarray(at + 4, end));
        read.push({ address: entry.vaddr, pages: Number(entry.nrPages), flags: entry.flags ?? 0 });
        at = end;
      }
      expect(read).toEqual(runs);
    }),
  );
});
