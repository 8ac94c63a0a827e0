import xxhash, { type XXHashAPI } from "xxhash-wasm";
import zstd from "zstd-napi/binding.js";

import { GodwitError } from "../../proto/contract/error.ts";
import { Encoding } from "../../proto/gen/godwit/v1/stream.ts";
import { CHUNK_BYTES, type DataChunk } from "./frames.ts";

/** Not worth the receiver's time below this saving. */
const MIN_SAVING = 1 / 16;
/** After so many chunks in a row that did not shrink, only a sample of each is tried first. */
const SAMPLE_AFTER = 4;
const SAMPLE_BYTES = 16 * 1024;

const ZEROS = Buffer.alloc(CHUNK_BYTES);
const NOTHING = new Uint8Array(0);
const sampleScratch = Buffer.allocUnsafeSlow(zstd.compressBound(SAMPLE_BYTES));

// Measured on 256 KiB: xxHash64 in WebAssembly 8.8 GB/s, Node's SHA-256 1.5 GB/s; Node's crypto has no xxHash.
let hashes: XXHashAPI | undefined;
export async function loadChecksum(): Promise<(bytes: Uint8Array) => bigint> {
  const loaded = (hashes ??= await xxhash());
  return (bytes) => loaded.h64Raw(bytes);
}

/** As the digest over all checksums takes them. */
export function checksumBytes(checksum: bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(checksum);
  return bytes;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes[0] === 0 && ZEROS.compare(bytes, 0, bytes.byteLength, 0, bytes.byteLength) === 0;
}

/** Decides chunk by chunk how the bytes travel. */
export class ChunkCompressor {
  readonly #context = new zstd.CCtx();
  readonly #level: number;
  readonly #compressed = Buffer.allocUnsafeSlow(zstd.compressBound(CHUNK_BYTES));
  #incompressibleRun = 0;

  constructor(level: number) {
    this.#level = level;
  }

  /** The payload for `raw` (at most CHUNK_BYTES) is valid until the next call, and may be `raw` itself. */
  encode(raw: Uint8Array): { encoding: Encoding; payload: Uint8Array } {
    if (raw.byteLength > 0 && isZero(raw)) return { encoding: Encoding.ZERO, payload: NOTHING };
    const worthwhile = raw.byteLength * (1 - MIN_SAVING);
    if (raw.byteLength > 0 && this.#looksCompressible(raw)) {
      const compressed = this.#context.compress(this.#compressed, raw, this.#level);
      if (compressed <= worthwhile) {
        this.#incompressibleRun = 0;
        return { encoding: Encoding.ZSTD, payload: this.#compressed.subarray(0, compressed) };
      }
      this.#incompressibleRun++;
    }
    return { encoding: Encoding.STORED, payload: raw };
  }

  #looksCompressible(raw: Uint8Array): boolean {
    if (this.#incompressibleRun < SAMPLE_AFTER || raw.byteLength < 4 * SAMPLE_BYTES) return true;
    const middle = (raw.byteLength - SAMPLE_BYTES) >> 1;
    const sample = raw.subarray(middle, middle + SAMPLE_BYTES);
    return this.#context.compress(sampleScratch, sample, this.#level) <= SAMPLE_BYTES * (1 - MIN_SAVING);
  }
}

/** The opposite. The bytes returned are the caller's own. */
export class ChunkDecompressor {
  readonly #context = new zstd.DCtx();

  decode(chunk: DataChunk): Uint8Array {
    switch (chunk.encoding) {
      case Encoding.ZERO:
        return Buffer.alloc(chunk.rawLength);
      case Encoding.STORED: {
        // The message's memory belongs to a receive buffer up to three times its size.
        const raw = Buffer.allocUnsafeSlow(chunk.rawLength);
        raw.set(chunk.payload);
        return raw;
      }
      case Encoding.ZSTD: {
        const raw = Buffer.allocUnsafeSlow(chunk.rawLength);
        let length: number;
        try {
          length = this.#context.decompress(raw, chunk.payload);
        } catch (error) {
          throw new GodwitError("corrupt", "image stream: a chunk that does not decompress", {
            cause: error,
          });
        }
        if (length !== chunk.rawLength)
          throw new GodwitError("corrupt", "image stream: a chunk of another length");
        return raw;
      }
      default:
        throw new GodwitError("corrupt", `image stream: unknown encoding ${chunk.encoding}`);
    }
  }
}
