import { GodwitError } from "../../proto/contract/error.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { encodeRecordHeader, type StreamRecord } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import { HeldIndex } from "./held-index.ts";

/** A task's memory, as in page-run.ts. */
const SPACE = /^1-\d{1,19}$/;
/** A host holds no more (HeldStore); 8 GiB of memory. */
const MAX_PAGES = 2 ** 21;
const MAX_BODY_BYTES = 16 * 1024;

/** Says which pages this host holds. */
export async function sendOffer(sender: ImageSender, index: HeldIndex): Promise<void> {
  for (const run of index.runs()) {
    const body = index.encode(run);
    const header = { kind: RecordKind.HELD_PAGES, length: body.byteLength, name: run.space };
    await sender.write(Buffer.concat([encodeRecordHeader(header), body]));
  }
  await sender.write(encodeRecordHeader({ kind: RecordKind.END }));
  await sender.finish();
}

/** What the other host says that it holds. Throws `corrupt` for what makes no sense. */
export async function readOffer(records: AsyncIterable<StreamRecord>): Promise<HeldIndex> {
  const index = new HeldIndex();
  let bytes = 0;
  for await (const { header, body } of records) {
    if (header.kind === RecordKind.END) continue;
    if (header.kind !== RecordKind.HELD_PAGES || !SPACE.test(header.name) || header.length > MAX_BODY_BYTES)
      throw new GodwitError("corrupt", "a record that says of no page that it is held");
    bytes += header.length;
    if (bytes > MAX_PAGES * 24) throw new GodwitError("corrupt", "more held pages than a host may hold");
    const pieces: Uint8Array[] = [];
    for await (const piece of body) pieces.push(piece);
    if (!index.decode(header.name, Buffer.concat(pieces)))
      throw new GodwitError("corrupt", "held pages that make no sense");
  }
  return index;
}
