import xxhash, { type XXHashAPI } from "xxhash-wasm";
import zstd from "zstd-napi/binding.js";

import { GodwitError } from "../../proto/contract/error.ts";
import { Encoding } from "../../proto/gen/godwit/v1/stream.ts";
import { CHUNK_BYTES, FRAME_HEAD_BYTES, type DataChunk } from "./frames.ts";

/** Not worth the receiver's time below this saving. */
const MIN_SAVING = 1 / 16;
/** After so many chunks in a row that did not shrink, only a sample of each is tried first. */
const SAMPLE_AFTER = 4;
const SAMPLE_BYTES = 16 * 1024;
/** Room for the worst that zstd makes of one chunk. */
export const FRAME_BYTES = FRAME_HEAD_BYTES + zstd.compressBound(CHUNK_BYTES);

const ZEROS = Buffer.alloc(CHUNK_BYTES);
const sampleScratch = Buffer.allocUnsafeSlow(zstd.compressBound(SAMPLE_BYTES));

// Measured on 256 KiB: xxHash64 in WebAssembly 8.8 GB/s, Node's SHA-256 1.5 GB/s; Node's crypto has no xxHash.
let hashes: XXHashAPI | undefined;
export async function loadChecksum(): Promise<(bytes: Uint8Array) => bigint> {
  const loaded = (hashes ??= await xxhash());
  return (bytes) => loaded.h64Raw(bytes);
}

function isZero(bytes: Uint8Array): boolean {
  return bytes[0] === 0 && ZEROS.compare(bytes, 0, bytes.byteLength, 0, bytes.byteLength) === 0;
}

/** Decides chunk by chunk how the bytes travel. */
export class ChunkCompressor {
  readonly #context = new zstd.CCtx();
  readonly #level: number;
  #incompressibleRun = 0;

  constructor(level: number) {
    this.#level = level;
  }

  /** Puts `raw` (at most CHUNK_BYTES) into `frame` behind the room for the head. */
  encode(raw: Uint8Array, frame: Uint8Array): { encoding: Encoding; payloadLength: number } {
    if (raw.byteLength > 0 && isZero(raw)) return { encoding: Encoding.ZERO, payloadLength: 0 };
    const worthwhile = raw.byteLength * (1 - MIN_SAVING);
    if (raw.byteLength > 0 && this.#looksCompressible(raw)) {
      const compressed = this.#context.compress(frame.subarray(FRAME_HEAD_BYTES), raw, this.#level);
      if (compressed <= worthwhile) {
        this.#incompressibleRun = 0;
        return { encoding: Encoding.ZSTD, payloadLength: compressed };
      }
      this.#incompressibleRun++;
    }
    frame.set(raw, FRAME_HEAD_BYTES);
    return { encoding: Encoding.STORED, payloadLength: raw.byteLength };
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
