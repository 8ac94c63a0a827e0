import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { logRange, readLog } from "../shim/log-store.ts";
import type { RecordWriter } from "./record-writer.ts";

/** What the container has written up to now, from `from` on as far as it is still kept. */
export async function sendLog(
  writer: RecordWriter,
  dir: string,
  from: number,
): Promise<{ startOffset: number; endOffset: number }> {
  const range = await logRange(dir);
  let offset = Math.max(range.startOffset, from);
  while (offset < range.endOffset) {
    const piece = await readLog(dir, offset);
    if (piece.data.length === 0) break;
    await writer.write(RecordKind.LOG, piece.data, String(piece.offset));
    offset = piece.offset + piece.data.length;
  }
  return { startOffset: range.startOffset, endOffset: offset };
}
