/**
 * Streams that may be compressed, told by their first bytes. Both decompressors give out bounded pieces
 * and wait for their reader: a bomb of a few bytes must not become gigabytes in memory.
 */
import { createGunzip } from "node:zlib";
import { Readable } from "node:stream";
import zstd from "zstd-napi/binding.js";
import { GodwitError } from "../../../proto/contract/error.ts";

export type Compression = "none" | "gzip" | "zstd" | "xz" | "bzip2" | "zip";

/** Bytes that `compressionOf` needs to see. */
export const MAGIC_BYTES = 6;

export function compressionOf(head: Uint8Array): Compression {
  const starts = (...magic: number[]): boolean => magic.every((byte, i) => head[i] === byte);
  if (starts(0x1f, 0x8b)) return "gzip";
  if (starts(0x28, 0xb5, 0x2f, 0xfd)) return "zstd";
  // A zstd stream may begin with skippable frames (0x184D2A50 to 0x184D2A5F, little-endian; RFC 8878, 3.1.2).
  if (
    head[0] !== undefined &&
    (head[0] & 0xf0) === 0x50 &&
    head[1] === 0x2a &&
    head[2] === 0x4d &&
    head[3] === 0x18
  )
    return "zstd";
  if (starts(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) return "xz";
  if (starts(0x42, 0x5a, 0x68)) return "bzip2";
  if (starts(0x50, 0x4b, 0x03, 0x04)) return "zip";
  return "none";
}

/** The uncompressed bytes of `source`; `where` names it in errors ("layer 2 of 3"). */
export async function* decompress(source: AsyncIterable<Buffer>, where: string): AsyncGenerator<Buffer> {
  const { head, whole } = await peek(source);
  const compression = compressionOf(head);
  switch (compression) {
    case "none":
      yield* whole;
      return;
    case "gzip":
      yield* gunzip(whole, where);
      return;
    case "zstd":
      yield* unzstd(whole, where);
      return;
    case "xz":
    case "bzip2":
    case "zip":
      throw new GodwitError(
        "invalid",
        `${where} is compressed with ${compression}, which is not supported; use gzip, zstd or none`,
      );
  }
}

async function peek(source: AsyncIterable<Buffer>): Promise<{ head: Buffer; whole: AsyncIterable<Buffer> }> {
  const iterator = source[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < MAGIC_BYTES) {
    const next = await iterator.next();
    if (next.done === true) break;
    head = head.length === 0 ? next.value : Buffer.concat([head, next.value]);
  }
  const first = head;
  async function* whole(): AsyncGenerator<Buffer> {
    try {
      if (first.length > 0) yield first;
      for (;;) {
        const next = await iterator.next();
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      await iterator.return?.();
    }
  }
  return { head, whole: whole() };
}

async function* gunzip(source: AsyncIterable<Buffer>, where: string): AsyncGenerator<Buffer> {
  const gunzipper = createGunzip({ chunkSize: 128 * 1024 });
  // An error of the source (a wrong digest, an abort) must come out as itself, not as zlib's.
  const state: { sourceError?: unknown } = {};
  const input = Readable.from(source, { objectMode: false });
  input.on("error", (error) => {
    state.sourceError = error;
    gunzipper.destroy(error);
  });
  input.pipe(gunzipper);
  try {
    for await (const chunk of gunzipper) yield chunk as Buffer;
  } catch (error) {
    throw state.sourceError ?? damaged(where, "gzip", error);
  } finally {
    input.destroy();
    gunzipper.destroy();
  }
}

async function* unzstd(source: AsyncIterable<Buffer>, where: string): AsyncGenerator<Buffer> {
  const context = new zstd.DCtx();
  const outputBytes = zstd.dStreamOutSize();
  let inFrame = false;
  for await (const chunk of source) {
    let rest: Uint8Array = chunk;
    for (;;) {
      const output = Buffer.allocUnsafe(outputBytes);
      let step: readonly [hint: number, produced: number, consumed: number];
      try {
        step = context.decompressStream(output, rest);
      } catch (error) {
        throw damaged(where, "zstd", error);
      }
      const [hint, produced, consumed] = step;
      rest = rest.subarray(consumed);
      inFrame = hint !== 0;
      if (produced > 0) yield output.subarray(0, produced);
      // A full output buffer may leave more inside of the decoder; ask again until it is not full.
      if (rest.length === 0 && (produced < output.length || hint === 0)) break;
    }
  }
  if (inFrame) throw damaged(where, "zstd", new Error("unexpected end of the data"));
}

function damaged(where: string, format: string, cause: unknown): GodwitError {
  const detail = cause instanceof Error ? cause.message : String(cause);
  return new GodwitError("corrupt", `${where}: its ${format} data is damaged or cut short (${detail})`, {
    cause,
  });
}
