import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { GodwitError } from "../../proto/contract/error.ts";
import { Encoding, encodingFromJSON, encodingToNumber } from "../../proto/gen/godwit/v1/stream.ts";
import { restLength, zeroMapBytes } from "./zero-blocks.ts";

/**
 * The bytes of a Chunk (proto/godwit/v1/stream.proto). The generated codec is not used for it: that one
 * copies every payload twice and turns the 64-bit checksum into a number, which loses its low bits.
 *
 * Four kinds of message share the shape:
 * - data: an encoding and a payload;
 * - probe: no encoding, no payload; `sequence` is the one that the sender would transmit next. It asks for
 *   a Credit, keeps the stream alive while there is nothing to send, and shows the receiver that chunks
 *   below `sequence` were lost;
 * - abort: no encoding, `last`, and the reason as payload;
 * - farewell: no encoding, `farewell`: the sender has heard that all is complete, and asks no more.
 *
 * These bytes travel sealed (sealing.ts); a data frame's sequence is the number that it was sealed with.
 */
export type Frame =
  | { readonly kind: "data"; readonly data: DataChunk }
  | { readonly kind: "probe"; readonly sequence: number }
  | { readonly kind: "abort"; readonly reason: string }
  | { readonly kind: "farewell" };

export interface DataChunk {
  /** xxHash64 of what the payload decodes to. */
  readonly checksum: bigint;
  readonly encoding: Encoding;
  readonly rawLength: number;
  /** Shares memory with the frame it was decoded from. */
  readonly payload: Uint8Array;
  /** SHA-256 over the checksums of all chunks, on the last one only. */
  readonly digest: Uint8Array | undefined;
  readonly last: boolean;
  /** Of blocks of zeros that the payload leaves out; see zero-blocks.ts. */
  readonly zeroMap: Uint8Array | undefined;
}

/** What a sender of this version puts into one chunk. */
export const CHUNK_BYTES = 256 * 1024;
/** What a receiver takes at most, per stream.proto. */
export const MAX_CHUNK_BYTES = 1024 * 1024;
/** What `encodeChunkHead` makes at most. */
export const FRAME_HEAD_BYTES = 128;
const MAX_REASON_BYTES = 1024;
const DIGEST_BYTES = 32;
const EMPTY = new Uint8Array(0);

export type DataChunkHead = Omit<DataChunk, "payload">;

/** Everything in front of the payload: it is the last field (protobuf's may come in any order), and is not moved. */
export function encodeChunkHead(head: DataChunkHead, payloadLength: number): Uint8Array {
  const writer = new BinaryWriter();
  writer.uint32(17).fixed64(head.checksum);
  writer.uint32(24).int32(encodingToNumber(head.encoding));
  writer.uint32(32).uint32(head.rawLength);
  if (head.digest !== undefined) writer.uint32(50).bytes(head.digest);
  if (head.last) writer.uint32(56).bool(true);
  if (head.zeroMap !== undefined) writer.uint32(66).bytes(head.zeroMap);
  writer.uint32(42).uint32(payloadLength);
  return writer.finish();
}

export function encodeProbe(sequence: number): Uint8Array {
  return new BinaryWriter().uint32(8).uint64(sequence).finish();
}

export function encodeAbort(reason: string): Uint8Array {
  const text = new TextEncoder().encode(reason).subarray(0, MAX_REASON_BYTES);
  return new BinaryWriter().uint32(56).bool(true).uint32(42).bytes(text).finish();
}

export function encodeFarewell(): Uint8Array {
  return new BinaryWriter().uint32(72).bool(true).finish();
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
  let farewell = false;
  let zeroMap: Uint8Array | undefined;
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
      else if (field === 8 && wireType === WireType.LengthDelimited) zeroMap = reader.bytes();
      else if (field === 9 && wireType === WireType.Varint) farewell = reader.bool();
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
    return farewell ? { kind: "farewell" } : { kind: "probe", sequence };
  }
  if (rawLength > MAX_CHUNK_BYTES) throw corrupt("a chunk of more than 1 MiB");
  if (zeroMap !== undefined && zeroMap.byteLength !== zeroMapBytes(rawLength))
    throw corrupt("a map of zeros of another length");
  if (
    encoding === Encoding.STORED &&
    payload.byteLength !== (zeroMap === undefined ? rawLength : restLength(zeroMap, rawLength))
  )
    throw corrupt("a stored chunk cut short");
  if (encoding === Encoding.ZERO && payload.byteLength !== 0) throw corrupt("a zero chunk with a payload");
  if (last !== (digest !== undefined)) throw corrupt("a digest belongs to the last chunk");
  if (digest !== undefined && digest.byteLength !== DIGEST_BYTES)
    throw corrupt("a digest that is not SHA-256");
  return { kind: "data", data: { checksum, encoding, rawLength, payload, digest, last, zeroMap } };
}
