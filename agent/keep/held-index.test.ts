import fc from "fast-check";
import { expect, test } from "vitest";

import { HeldIndex } from "./held-index.ts";

const digestOf = (seed: number): Uint32Array => Uint32Array.of(seed, seed >>> 1, seed ^ 0x5a5a5a5a, seed | 1);
const asDigest = (words: Uint32Array) => ({
  a: words[0] ?? 0,
  b: words[1] ?? 0,
  c: words[2] ?? 0,
  d: words[3] ?? 0,
});

test("what one host says of its pages is what the other understands", () => {
  const page = fc.record({
    space: fc.constantFrom("1-1", "1-77"),
    page: fc.oneof(fc.nat(2000), fc.nat(2 ** 36)),
    seed: fc.nat(2 ** 31),
  });
  fc.assert(
    fc.property(fc.array(page, { maxLength: 300 }), (pages) => {
      const index = new HeldIndex();
      const model = new Map<string, number>();
      for (const [slot, { space, page, seed }] of pages.entries()) {
        index.set(space, page, digestOf(seed), 0, slot);
        model.set(`${space} ${page}`, seed);
      }
      const told = new HeldIndex();
      let count = 0;
      for (const run of index.runs()) {
        count += run.pages;
        expect(told.decode(run.space, index.encode(run))).toBe(true);
      }
      expect(count).toBe(model.size);
      for (const [key, seed] of model) {
        const [space = "", page] = key.split(" ");
        const digest = asDigest(digestOf(seed));
        expect(told.holds(space, Number(page), digest)).toBe(true);
        expect(told.holds(space, Number(page), { ...digest, c: digest.c ^ 1 })).toBe(false);
        expect(index.slot(space, Number(page))).toBe(
          pages.findLastIndex((one) => one.space === space && one.page === Number(page)),
        );
      }
      expect(told.isEmpty).toBe(model.size === 0);
    }),
  );
});

test("what makes no sense is refused", () => {
  const index = new HeldIndex();
  const at = (address: bigint, bytes: number): Buffer => {
    const body = Buffer.alloc(bytes);
    body.writeBigUInt64LE(address, 0);
    return body;
  };
  expect(index.decode("1-1", at(0n, 8))).toBe(false);
  expect(index.decode("1-1", at(4096n, 8 + 15))).toBe(false);
  expect(index.decode("1-1", at(4097n, 24))).toBe(false);
  expect(index.decode("1-1", at(2n ** 63n, 24))).toBe(false);
  expect(index.decode("1-1", at(0n, 8 + 513 * 16))).toBe(false);
  // A page of which nothing is known is held by nobody.
  expect(index.decode("1-1", at(8192n, 24))).toBe(true);
  expect(index.slot("1-1", 2)).toBeUndefined();
});
