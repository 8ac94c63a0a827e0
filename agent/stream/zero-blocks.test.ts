import * as fc from "fast-check";
import { expect, test } from "vitest";

import { restLength, squeezeZeros, unsqueeze, ZERO_BLOCK_BYTES, zeroMapBytes } from "./zero-blocks.ts";

const chunk = fc
  .tuple(
    fc.array(fc.constantFrom("zero", "data", "late"), { maxLength: 300 }),
    fc.integer({ min: 0, max: ZERO_BLOCK_BYTES - 1 }),
  )
  .map(([kinds, tail]) =>
    Buffer.concat([
      ...kinds.map((kind) => {
        const block = Buffer.alloc(ZERO_BLOCK_BYTES, kind === "data" ? 7 : 0);
        if (kind === "late") block[ZERO_BLOCK_BYTES - 1] = 1;
        return block;
      }),
      Buffer.alloc(tail),
    ]),
  );

test("what was left out comes back, and nothing else was left out", () => {
  fc.assert(
    fc.property(chunk, (raw) => {
      const squeezed = squeezeZeros(raw, new Uint8Array(raw.byteLength));
      if (squeezed === undefined) return;
      const { zeroMap, rest } = squeezed;
      expect(zeroMap.byteLength).toBe(zeroMapBytes(raw.byteLength));
      expect(rest.byteLength).toBe(restLength(zeroMap, raw.byteLength));
      expect(rest.byteLength).toBeLessThan(raw.byteLength);
      const back = Buffer.alloc(raw.byteLength);
      unsqueeze(zeroMap, rest, back);
      expect(back.equals(raw)).toBe(true);
    }),
  );
});

test("a single page of zeros somewhere in a chunk is left out but for its edges", () => {
  const raw = Buffer.alloc(64 * 1024, 5).fill(0, 17_001, 17_001 + 4096);
  expect(squeezeZeros(raw, new Uint8Array(raw.byteLength))?.rest.byteLength).toBe(64 * 1024 - 3 * 1024);
});

test("a few zeros are not worth it", () => {
  const raw = Buffer.alloc(256 * 1024, 5).fill(0, 0, 1024);
  expect(squeezeZeros(raw, new Uint8Array(raw.byteLength))).toBeUndefined();
  expect(squeezeZeros(Buffer.alloc(0), new Uint8Array(0))).toBeUndefined();
});
