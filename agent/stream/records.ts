import { BinaryWriter } from "@bufbuild/protobuf/wire";

import { GodwitError } from "../../proto/contract/error.ts";
import { RecordHeader, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";

const MAX_HEADER_BYTES = 1024;
const MAX_NAME_BYTES = 255;

export interface StreamRecord {
  readonly header: RecordHeader;
  /** `header.length` bytes. What the caller leaves is skipped when it asks for the next record. */
  readonly body: AsyncIterable<Uint8Array>;
}

const corrupt = (what: string, cause?: unknown): GodwitError =>
  new GodwitError("corrupt", `image stream: ${what}`, cause === undefined ? {} : { cause });

/** What is wrong with a header, if anything: names become files on the target. */
function faultOf({ kind, length, name }: RecordHeader): string | undefined {
  if (kind === RecordKind.UNSPECIFIED) return "no kind";
  if (!Number.isSafeInteger(length) || length < 0) return "a length out of range";
  if (kind === RecordKind.END && length !== 0) return "a body behind the end";
  if (kind === RecordKind.IMAGE_FILE && name === "") return "no file name";
  if (name === "." || name === ".." || /[/\0]/.test(name)) return "a name that is no plain file name";
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) return "a name that is too long";
  return undefined;
}

/** Everything in front of a record's body: a varint with the header's length, then the header. */
export function encodeRecordHeader(fields: { kind: RecordKind; length?: number; name?: string }): Uint8Array {
  const header = RecordHeader.fromPartial(fields);
  const fault = faultOf(header);
  if (fault !== undefined) throw new GodwitError("internal", `a record header with ${fault}`);
  return new BinaryWriter().bytes(RecordHeader.encode(header).finish()).finish();
}

/** Takes bytes off an iterable in portions of the caller's choice. */
class ByteSource {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Between one and `maximum` bytes, or undefined at the end. */
  async take(maximum: number): Promise<Uint8Array | undefined> {
    while (this.#rest.byteLength === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return undefined;
      this.#rest = next.value;
    }
    const taken = this.#rest.subarray(0, maximum);
    this.#rest = this.#rest.subarray(taken.byteLength);
    return taken;
  }

  async takeExactly(length: number): Promise<Uint8Array> {
    const whole = new Uint8Array(length);
    for (let filled = 0; filled < length;) {
      const part = await this.take(length - filled);
      if (part === undefined) throw corrupt("it ended within a record header");
      whole.set(part, filled);
      filled += part.byteLength;
    }
    return whole;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}

/**
 * Reads records up to END, which must be the last bytes of the stream: it then waits for the stream's own
 * end, where the digest over all is checked. Anything malformed or cut short throws GodwitError `corrupt`.
 */
export async function* readRecords(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<StreamRecord, void, undefined> {
  const source = new ByteSource(chunks);
  try {
    for (;;) {
      const header = await readHeader(source);
      let left = header.length;
      const body = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
        while (left > 0) {
          const part = await source.take(left);
          if (part === undefined) throw corrupt("it ended within a record");
          left -= part.byteLength;
          yield part;
        }
      };
      if (header.kind === RecordKind.END) {
        if ((await source.take(1)) !== undefined) throw corrupt("bytes behind the end record");
        yield { header, body: body() };
        return;
      }
      yield { header, body: body() };
      for await (const skipped of body()) void skipped;
    }
  } finally {
    await source.close();
  }
}

async function readHeader(source: ByteSource): Promise<RecordHeader> {
  let length = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = (await source.take(1))?.[0];
    if (byte === undefined) throw corrupt("it ended without an end record");
    length += (byte & 0x7f) * 2 ** shift;
    if (length > MAX_HEADER_BYTES || shift > 14) throw corrupt("a record header that is too long");
    if (byte < 0x80) break;
  }
  const bytes = await source.takeExactly(length);
  let header: RecordHeader;
  try {
    header = RecordHeader.decode(bytes);
  } catch (error) {
    throw corrupt("a record header that cannot be decoded", error);
  }
  const fault = faultOf(header);
  if (fault !== undefined) throw corrupt(`a record header with ${fault}`);
  return header;
}
