/** Messages by the thousand a second: half of what a small one costs to encode is the making of its writer's buffers. */
import { BinaryWriter } from "@bufbuild/protobuf/wire";

interface Encoder<T> {
  encode(message: T, writer: BinaryWriter): BinaryWriter;
}

/** Keeps its buffer from one message to the next; what it gives out is a copy. */
const writer = new BinaryWriter();

/** What is encoded already, as a part of a message. */
export interface EncodedPart {
  /** Number and wire type of the field that it is to be; absent: it is whole fields as they stand. */
  readonly tag?: number;
  readonly bytes: Uint8Array;
}

/** `encoder.encode(message).finish()`, with one writer for all, and more fields behind it. */
export const encoded = <T>(
  encoder: Encoder<T>,
  message: T,
  parts: readonly EncodedPart[] = [],
): Uint8Array => {
  try {
    encoder.encode(message, writer);
    for (const { bytes, tag } of parts)
      if (tag === undefined) writer.raw(bytes);
      else writer.uint32(tag).bytes(bytes);
    return writer.finish();
  } catch (error) {
    // What was written before it failed is not to begin the next one.
    writer.finish();
    throw error;
  }
};
