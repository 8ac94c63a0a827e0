import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { GodwitError } from "../../proto/contract/error.ts";
import { Encoding, encodingFromJSON, encodingToNumber } from "../../proto/gen/godwit/v1/stream.ts";

/**
 * The bytes of a Chunk (proto/godwit/v1/stream.proto). The generated codec is not used for it: that one
 * copies every payload twice and turns the 64-bit checksum into a number, which loses its low bits.
 *
 * Three kinds of message share the shape:
 * - data: an encoding and a payload;
 * - probe: no encoding, no payload; `sequence` is the one that the sender would transmit next. It asks for
 *   a Credit, keeps the stream alive while there is nothing to send, and shows the receiver that chunks
 *   below `sequence` were lost;
 * - abort: no encoding, `last`, and the reason as payload.
 *
 * Authentication between agents belongs here and nowhere else: a frame leaves `encodeChunk` as one run of
 * bytes and enters `decodeChunk` as one, so a tag over it can be appended and checked in these two
 * functions (and the same for the Credit's bytes).
 */
export type Frame =
  | { readonly kind: "data"; readonly data: DataChunk }
  | { readonly kind: "probe"; readonly sequence: number }
  | { readonly kind: "abort"; readonly reason: string };

export interface DataChunk {
  readonly sequence: number;
  /** xxHash64 of `payload`. */
  readonly checksum: bigint;
  readonly encoding: Encoding;
  readonly rawLength: number;
  /** Shares memory with the frame it was decoded from. */
  readonly payload: Uint8Array;
  /** SHA-256 over all decoded payloads, on the last chunk only. */
  readonly digest: Uint8Array | undefined;
  readonly last: boolean;
}

/** What a sender of this version puts into one chunk. */
export const CHUNK_BYTES = 256 * 1024;
/** What a receiver takes at most, per stream.proto. */
export const MAX_CHUNK_BYTES = 1024 * 1024;
/** Room that `encodeChunk` needs in front of a payload. */
export const FRAME_HEAD_BYTES = 96;
const MAX_REASON_BYTES = 1024;
const DIGEST_BYTES = 32;
const EMPTY = new Uint8Array(0);

export type DataChunkHead = Omit<DataChunk, "payload">;

/**
 * `frame` holds the payload at FRAME_HEAD_BYTES; the fields are written right in front of it (protobuf
 * fields may come in any order), so the payload is not moved. Returns the part that is the message.
 */
export function encodeChunk(head: DataChunkHead, frame: Uint8Array, payloadLength: number): Uint8Array {
  const writer = new BinaryWriter();
  writer.uint32(8).uint64(head.sequence);
  writer.uint32(17).fixed64(head.checksum);
  writer.uint32(24).int32(encodingToNumber(head.encoding));
  writer.uint32(32).uint32(head.rawLength);
  if (head.digest !== undefined) writer.uint32(50).bytes(head.digest);
  if (head.last) writer.uint32(56).bool(true);
  writer.uint32(42).uint32(payloadLength);
  const fields = writer.finish();
  const start = FRAME_HEAD_BYTES - fields.byteLength;
  frame.set(fields, start);
  return frame.subarray(start, FRAME_HEAD_BYTES + payloadLength);
}

export function encodeProbe(sequence: number): Uint8Array {
  return new BinaryWriter().uint32(8).uint64(sequence).finish();
}

export function encodeAbort(reason: string): Uint8Array {
  const text = new TextEncoder().encode(reason).subarray(0, MAX_REASON_BYTES);
  return new BinaryWriter().uint32(56).bool(true).uint32(42).bytes(text).finish();
}

const corrupt = (what: string, cause?: unknown): GodwitError =>
  new GodwitError("corrupt", `image stream: ${what}`, cause === undefined ? {} : { cause });

/** Throws GodwitError `corrupt` for anything that is not a well-formed frame within bounds. */
export function decodeChunk(bytes: Uint8Array): Frame {
  let sequence = 0;
  let checksum = 0n;
  let encoding: Encoding = Encoding.UNSPECIFIED;
  let rawLength = 0;
  let payload: Uint8Array = EMPTY;
  let digest: Uint8Array | undefined;
  let last = false;
  try {
    const reader = new BinaryReader(bytes);
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      if (field === 1 && wireType === WireType.Varint) sequence = Number(reader.uint64());
      else if (field === 2 && wireType === WireType.Bit64) checksum = BigInt(reader.fixed64());
      else if (field === 3 && wireType === WireType.Varint) encoding = encodingFromJSON(reader.int32());
      else if (field === 4 && wireType === WireType.Varint) rawLength = reader.uint32();
      else if (field === 5 && wireType === WireType.LengthDelimited) payload = reader.bytes();
      else if (field === 6 && wireType === WireType.LengthDelimited) digest = reader.bytes();
      else if (field === 7 && wireType === WireType.Varint) last = reader.bool();
      else reader.skip(wireType);
    }
  } catch (error) {
    throw corrupt("a frame that cannot be decoded", error);
  }
  if (!Number.isSafeInteger(sequence)) throw corrupt("a sequence number out of range");
  if (payload.byteLength > MAX_CHUNK_BYTES) throw corrupt("a payload of more than 1 MiB");
  if (encoding === Encoding.UNSPECIFIED) {
    if (last)
      return { kind: "abort", reason: new TextDecoder().decode(payload.subarray(0, MAX_REASON_BYTES)) };
    return { kind: "probe", sequence };
  }
  if (rawLength > MAX_CHUNK_BYTES) throw corrupt("a chunk of more than 1 MiB");
  if (encoding === Encoding.STORED && payload.byteLength !== rawLength)
    throw corrupt("a stored chunk cut short");
  if (encoding === Encoding.ZERO && payload.byteLength !== 0) throw corrupt("a zero chunk with a payload");
  if (last !== (digest !== undefined)) throw corrupt("a digest belongs to the last chunk");
  if (digest !== undefined && digest.byteLength !== DIGEST_BYTES)
    throw corrupt("a digest that is not SHA-256");
  return { kind: "data", data: { sequence, checksum, encoding, rawLength, payload, digest, last } };
}
