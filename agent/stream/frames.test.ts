import * as fc from "fast-check";
import { expect, test } from "vitest";

import { GodwitError } from "../../proto/contract/error.ts";
import { Chunk, Encoding } from "../../proto/gen/godwit/v1/stream.ts";
import {
  type DataChunkHead,
  FRAME_HEAD_BYTES,
  MAX_CHUNK_BYTES,
  decodeChunk,
  encodeAbort,
  encodeChunkHead,
  encodeFarewell,
  encodeProbe,
} from "./frames.ts";

const frameOf = (head: DataChunkHead, payload: Uint8Array): Uint8Array => {
  const fields = encodeChunkHead(head, payload.byteLength);
  expect(fields.byteLength).toBeLessThanOrEqual(FRAME_HEAD_BYTES);
  return Uint8Array.of(...fields, ...payload);
};

const chunk = fc
  .record({
    checksum: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    payload: fc.uint8Array({ maxLength: 300 }),
    last: fc.boolean(),
  })
  .map(({ last, ...rest }) => ({
    head: {
      checksum: rest.checksum,
      encoding: Encoding.STORED,
      rawLength: rest.payload.byteLength,
      digest: last ? new Uint8Array(32).fill(7) : undefined,
      last,
      zeroMap: undefined,
    },
    payload: rest.payload,
  }));

test("what is encoded is decoded, all 64 bits of the checksum included", () => {
  fc.assert(
    fc.property(chunk, ({ head, payload }) => {
      const decoded = decodeChunk(frameOf(head, payload));
      expect(decoded).toEqual({ kind: "data", data: { ...head, payload } });
    }),
  );
});

test("the bytes are a Chunk of stream.proto", () => {
  const payload = Uint8Array.of(1, 2, 3);
  const head = {
    checksum: 77n,
    encoding: Encoding.STORED,
    rawLength: 3,
    digest: undefined,
    last: false,
    zeroMap: undefined,
  };
  const expected = { checksum: 77, encoding: Encoding.STORED, rawLength: 3, last: false };
  expect(Chunk.decode(frameOf(head, payload))).toMatchObject({
    ...expected,
    payload: Buffer.from(payload),
  });
  expect(
    decodeChunk(Chunk.encode(Chunk.fromPartial({ ...expected, payload: Buffer.from(payload) })).finish()),
  ).toEqual({ kind: "data", data: { ...head, payload } });
});

test("probe, abort and farewell", () => {
  expect(decodeChunk(encodeProbe(0))).toEqual({ kind: "probe", sequence: 0 });
  expect(decodeChunk(encodeProbe(2 ** 40))).toEqual({ kind: "probe", sequence: 2 ** 40 });
  expect(decodeChunk(encodeAbort("no room"))).toEqual({ kind: "abort", reason: "no room" });
  expect(decodeChunk(encodeAbort("x".repeat(5000)))).toMatchObject({ kind: "abort" });
  expect(decodeChunk(encodeFarewell())).toEqual({ kind: "farewell" });
});

test.each([
  ["a stored chunk cut short", { encoding: Encoding.STORED, rawLength: 2, payload: Buffer.alloc(1) }],
  [
    "a map of zeros of another length",
    { encoding: Encoding.STORED, rawLength: 2, payload: Buffer.alloc(2), zeroBlocks: Buffer.alloc(9) },
  ],
  [
    "less than its map of zeros leaves",
    {
      encoding: Encoding.STORED,
      rawLength: 2048,
      payload: Buffer.alloc(2048),
      zeroBlocks: Buffer.alloc(1, 1),
    },
  ],
  ["zeros with a payload", { encoding: Encoding.ZERO, rawLength: 1, payload: Buffer.alloc(1) }],
  ["zeros beyond 1 MiB", { encoding: Encoding.ZERO, rawLength: MAX_CHUNK_BYTES + 1 }],
  ["a digest in the middle", { encoding: Encoding.ZERO, rawLength: 1, digest: Buffer.alloc(32) }],
  ["an end without digest", { encoding: Encoding.ZERO, rawLength: 1, last: true }],
  ["a short digest", { encoding: Encoding.ZERO, rawLength: 1, last: true, digest: Buffer.alloc(31) }],
  ["a payload beyond 1 MiB", { encoding: Encoding.ZSTD, payload: Buffer.alloc(MAX_CHUNK_BYTES + 1) }],
])("refused: %s", (_, fields) => {
  expect(() => decodeChunk(Chunk.encode(Chunk.fromPartial(fields)).finish())).toThrow(GodwitError);
});

test("no bytes at all make the decoder fail otherwise than with `corrupt`", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const outcome = ((): unknown => {
        try {
          return decodeChunk(bytes);
        } catch (error) {
          return error instanceof GodwitError && error.code === "corrupt" ? { kind: "corrupt" } : error;
        }
      })();
      expect(outcome).toMatchObject({ kind: expect.stringMatching(/^(data|probe|abort|corrupt)$/) });
    }),
  );
});
