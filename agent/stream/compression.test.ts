import { randomBytes } from "node:crypto";
import { constants, zstdCompressSync } from "node:zlib";

import { describe, expect, test } from "vitest";

import { Encoding } from "../../proto/gen/godwit/v1/stream.ts";
import { CompressingThreads } from "../native/zstd-threads.ts";
import { ChunkCompressor, ChunkDecompressor } from "./compression.ts";
import { CHUNK_BYTES } from "./frames.ts";

const CHUNKS = 60;
const SLOW_LINK = { linkMsPerByte: 1000 / 10e6, backlogBytes: 0, urgent: false };

const filled = (value: (index: number) => Buffer): Buffer => {
  const values: Buffer[] = [];
  for (let bytes = 0, index = 0; bytes < CHUNKS * CHUNK_BYTES; index += 1) {
    const made = value(index);
    values.push(made);
    bytes += made.byteLength;
  }
  return Buffer.concat(values).subarray(0, CHUNKS * CHUNK_BYTES);
};

/** As in a redis: a head of its own for each value. */
const CONTENTS: Readonly<Record<string, Buffer>> = {
  "one text over and over": filled((index) =>
    Buffer.concat([
      randomBytes(16),
      Buffer.from(String(index).padStart(8, "0").repeat(512)),
      Buffer.alloc(1_000),
    ]),
  ),
  "records of a table": filled((index) =>
    Buffer.from(
      `{"id":${index},"name":"user-${(index * 7919) % 100_003}","score":${Math.sqrt(index)},"since":"2026-0${index % 9}"}`,
    ),
  ),
  "random bytes": filled(() => randomBytes(4_096)),
};

describe.each([0, 1])("a chunk's bytes, with %i threads beside", (threads) => {
  test.each(Object.entries(CONTENTS))(
    "%s: hardly more than zstd makes of all of it in one piece",
    async (_, content) => {
      let nowMs = 0;
      const compressor = new ChunkCompressor(() => (nowMs += 0.5), new CompressingThreads(threads));
      const decompressor = new ChunkDecompressor();
      let sent = 0;
      for (let offset = 0; offset < content.byteLength; offset += CHUNK_BYTES) {
        nowMs += 20;
        const raw = content.subarray(offset, offset + CHUNK_BYTES);
        const encoded = await compressor.encode(raw, SLOW_LINK, false);
        compressor.release(encoded);
        sent += encoded.payload.byteLength;
        const chunk = { ...encoded, checksum: 0n, rawLength: raw.byteLength, digest: undefined, last: false };
        expect(Buffer.compare(decompressor.decode(chunk), raw)).toBe(0);
      }
      const params = { [constants.ZSTD_c_compressionLevel]: 3 };
      expect(sent).toBeLessThan(zstdCompressSync(content, { params }).byteLength * 1.1);
    },
  );

  test("what does not shrink is sent as it is, while a trial goes on too", async () => {
    let nowMs = 0;
    const compressor = new ChunkCompressor(() => (nowMs += 0.5), new CompressingThreads(threads));
    for (let chunk = 0; chunk < 20; chunk += 1) {
      nowMs += 50;
      const raw = randomBytes(CHUNK_BYTES);
      const chunk = await compressor.encode(raw, SLOW_LINK, true);
      const { encoding, payload } = chunk;
      compressor.release(chunk);
      expect(encoding).toBe(Encoding.STORED);
      expect(Buffer.compare(payload, raw)).toBe(0);
    }
  });
});
