import { createReadStream, readFileSync } from "node:fs";

import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { ImageFile } from "./image-folder.ts";

const WHOLE_FILE_BYTES = 1024 * 1024;

/** Writes the records of a migration into the image stream. */
export class RecordWriter {
  readonly #sender: ImageSender;

  constructor(sender: ImageSender) {
    this.#sender = sender;
  }

  async write(kind: RecordKind, body: Uint8Array, name = ""): Promise<void> {
    await this.#sender.write(encodeRecordHeader({ kind, length: body.byteLength, name }));
    if (body.byteLength > 0) await this.#sender.write(body);
  }

  /** A body of unknown length in pieces; an empty record ends it. Answers its bytes. */
  async writePieces(
    kind: RecordKind,
    pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    name = "",
  ): Promise<number> {
    let bytes = 0;
    for await (const piece of pieces) {
      if (piece.byteLength === 0) continue;
      bytes += piece.byteLength;
      await this.write(kind, piece, name);
    }
    await this.write(kind, new Uint8Array(0), name);
    return bytes;
  }

  /** Small files, as most of an image are, without the cost of a stream each: they are on a tmpfs. */
  async writeFile(path: string, file: ImageFile): Promise<void> {
    const body =
      file.sizeBytes <= WHOLE_FILE_BYTES
        ? [readFileSync(path)]
        : createReadStream(path, { highWaterMark: WHOLE_FILE_BYTES });
    await this.writePieces(RecordKind.IMAGE_FILE, body, file.name);
  }

  async end(): Promise<void> {
    await this.write(RecordKind.END, new Uint8Array(0));
  }
}
