import { createReadStream } from "node:fs";

import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";

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
  async writePieces(kind: RecordKind, pieces: AsyncIterable<Uint8Array>, name = ""): Promise<number> {
    let bytes = 0;
    for await (const piece of pieces) {
      if (piece.byteLength === 0) continue;
      bytes += piece.byteLength;
      await this.write(kind, piece, name);
    }
    await this.write(kind, new Uint8Array(0), name);
    return bytes;
  }

  async writeFile(path: string, name: string): Promise<void> {
    await this.writePieces(
      RecordKind.IMAGE_FILE,
      createReadStream(path, { highWaterMark: 1024 * 1024 }),
      name,
    );
  }

  async end(): Promise<void> {
    await this.write(RecordKind.END, new Uint8Array(0));
  }
}
