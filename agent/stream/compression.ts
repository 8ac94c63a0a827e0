import xxhash, { type XXHashAPI } from "xxhash-wasm";
import zstd from "zstd-napi/binding.js";

import { GodwitError } from "../../proto/contract/error.ts";
import { Encoding } from "../../proto/gen/godwit/v1/stream.ts";
import type { CompressingThreads } from "../native/zstd-threads.ts";
import { chooseForm, type CompressedForm, type Form, type Outlook } from "./form-choice.ts";
import { FormBook } from "./form-costs.ts";
import { CHUNK_BYTES, type DataChunk } from "./frames.ts";
import { restLength, squeezeZeros, unsqueeze } from "./zero-blocks.ts";

/** Not worth the receiver's time below this saving. */
const MIN_SAVING = 1 / 16;
/** After so many chunks in a row that did not shrink, only a sample of each is tried first. */
const SAMPLE_AFTER = 4;
const SAMPLE_BYTES = 16 * 1024;

/** Less is compressed sooner than another thread has begun with it. */
const WORTH_A_THREAD_BYTES = 64 * 1024;

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

/** zstd's. */
const LEVELS: Readonly<Record<CompressedForm, number>> = { light: -5, dense: 1, denser: 3 };

export interface EncodedChunk {
  readonly encoding: Encoding;
  readonly payload: Uint8Array;
  /** Of blocks of zeros that were left out; see zero-blocks.ts. */
  readonly zeroMap: Uint8Array | undefined;
  /** Where the payload lies, to be given back. */
  readonly desk?: Desk;
}

/** Room to work on one chunk. */
class Desk {
  /** What is left when blocks of zeros are out. */
  readonly rest = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  /** What goes out, and another form of it. */
  compressed = Buffer.allocUnsafeSlow(zstd.compressBound(CHUNK_BYTES));
  tried = Buffer.allocUnsafeSlow(zstd.compressBound(CHUNK_BYTES));
}

/** What a form makes of the bytes. */
export function sizeIn(form: CompressedForm, bytes: Uint8Array): number {
  return new zstd.CCtx().compress(
    Buffer.allocUnsafeSlow(zstd.compressBound(bytes.byteLength)),
    bytes,
    LEVELS[form],
  );
}

/** What the stream around a chunk looks like. */
export type Surroundings = Pick<Outlook, "linkMsPerByte" | "backlogBytes" | "urgent">;

/** Decides chunk by chunk how the bytes travel. */
export class ChunkCompressor {
  readonly #context = new zstd.CCtx();
  readonly #nowMs: () => number;
  readonly #threads: CompressingThreads;
  readonly #book = new FormBook();
  readonly #desks: Desk[] = [];
  #form: Form = "dense";
  #incompressibleRun = 0;

  /** @param threads that compress beside this one, if there are any */
  constructor(nowMs: () => number, threads: CompressingThreads) {
    this.#nowMs = nowMs;
    this.#threads = threads;
  }

  /**
   * The payload for `raw` (at most CHUNK_BYTES) may be `raw` itself, unless it `isKept` or comes later.
   * A chunk's desk is to be released.
   */
  encode(raw: Uint8Array, surroundings: Surroundings, isKept: boolean): EncodedChunk | Promise<EncodedChunk> {
    if (raw.byteLength === 0) return { encoding: Encoding.STORED, payload: NOTHING, zeroMap: undefined };
    if (isZero(raw)) return { encoding: Encoding.ZERO, payload: NOTHING, zeroMap: undefined };
    const desk = this.#desks.pop() ?? new Desk();
    const whole = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
    const { rest = raw, zeroMap } = squeezeZeros(whole, desk.rest) ?? {};
    const kept = (): Uint8Array => {
      if (rest === raw) desk.rest.set(raw);
      return desk.rest.subarray(0, rest.byteLength);
    };
    const made = this.#compress(rest, kept, desk, surroundings);
    const chunk = (payload: Uint8Array | undefined, own: () => Uint8Array): EncodedChunk =>
      payload === undefined
        ? { encoding: Encoding.STORED, payload: own(), zeroMap, desk }
        : { encoding: Encoding.ZSTD, payload, zeroMap, desk };
    return made instanceof Promise
      ? made.then((payload) => chunk(payload, () => desk.rest.subarray(0, rest.byteLength)))
      : chunk(made, isKept ? kept : () => rest);
  }

  release({ desk }: EncodedChunk): void {
    if (desk !== undefined) this.#desks.push(desk);
  }

  /** Undefined: it is sent as it is. */
  #compress(
    bytes: Uint8Array,
    kept: () => Uint8Array,
    desk: Desk,
    surroundings: Surroundings,
  ): Uint8Array | undefined | Promise<Uint8Array | undefined> {
    const { byteLength } = bytes;
    const form = chooseForm({
      ...surroundings,
      bytes: byteLength,
      costs: this.#book.costs,
      threads: Math.max(1, this.#threads.count),
      before: this.#form,
    });
    this.#form = form;
    const trial = this.#book.trial(byteLength, this.#nowMs());
    if (form === "stored" && trial === undefined) return undefined;
    if (!this.#looksCompressible(bytes)) return undefined;
    const isWorthAThread = trial === undefined && byteLength >= WORTH_A_THREAD_BYTES;
    if (isWorthAThread && form !== "stored" && this.#threads.isFree)
      return this.#threads.compress(kept(), desk.compressed, LEVELS[form]).then((length) => {
        this.#book.measured(form, byteLength, length, undefined);
        return this.#smaller(desk, byteLength, length);
      });
    let length = form === "stored" ? Infinity : this.#measured(bytes, desk.compressed, form);
    const tried = trial === undefined || trial === form ? Infinity : this.#measured(bytes, desk.tried, trial);
    if (tried < length) {
      [desk.compressed, desk.tried] = [desk.tried, desk.compressed];
      length = tried;
    }
    return this.#smaller(desk, byteLength, length);
  }

  #smaller(desk: Desk, byteLength: number, length: number): Uint8Array | undefined {
    if (length === Infinity) return undefined;
    const shrinks = length <= byteLength * (1 - MIN_SAVING);
    this.#incompressibleRun = shrinks ? 0 : this.#incompressibleRun + 1;
    return shrinks ? desk.compressed.subarray(0, length) : undefined;
  }

  #measured(bytes: Uint8Array, room: Uint8Array, form: CompressedForm): number {
    const startedMs = this.#nowMs();
    const length = this.#context.compress(room, bytes, LEVELS[form]);
    this.#book.measured(form, bytes.byteLength, length, this.#nowMs() - startedMs);
    return length;
  }

  #looksCompressible(bytes: Uint8Array): boolean {
    if (this.#incompressibleRun < SAMPLE_AFTER || bytes.byteLength < 4 * SAMPLE_BYTES) return true;
    const length = this.#context.compress(sampleScratch, middleOf(bytes), LEVELS.light);
    return length <= SAMPLE_BYTES * (1 - MIN_SAVING);
  }
}

function middleOf(bytes: Uint8Array): Uint8Array {
  const middle = (bytes.byteLength - SAMPLE_BYTES) >> 1;
  return bytes.subarray(middle, middle + SAMPLE_BYTES);
}

/** The opposite. The bytes returned are the caller's own. */
export class ChunkDecompressor {
  readonly #context = new zstd.DCtx();

  decode(chunk: DataChunk): Uint8Array {
    const { zeroMap, rawLength } = chunk;
    if (zeroMap === undefined) return this.#decode(chunk, rawLength);
    const rest = this.#decode(chunk, restLength(zeroMap, rawLength));
    const raw = Buffer.alloc(rawLength);
    unsqueeze(zeroMap, rest, raw);
    return raw;
  }

  #decode({ encoding, payload }: DataChunk, length: number): Uint8Array {
    switch (encoding) {
      case Encoding.ZERO:
        return Buffer.alloc(length);
      case Encoding.STORED: {
        if (payload.byteLength !== length)
          throw new GodwitError("corrupt", "image stream: a stored chunk cut short");
        // The slot that the payload lies in is used again.
        const raw = Buffer.allocUnsafeSlow(length);
        raw.set(payload);
        return raw;
      }
      case Encoding.ZSTD: {
        const raw = Buffer.allocUnsafeSlow(length);
        let decoded: number;
        try {
          decoded = this.#context.decompress(raw, payload);
        } catch (error) {
          throw new GodwitError("corrupt", "image stream: a chunk that does not decompress", {
            cause: error,
          });
        }
        if (decoded !== length) throw new GodwitError("corrupt", "image stream: a chunk of another length");
        return raw;
      }
      default:
        throw new GodwitError("corrupt", `image stream: unknown encoding ${encoding}`);
    }
  }
}
