import { CheckpointDescription, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { RecordWriter } from "./record-writer.ts";

/**
 * The last records of an image. From "maybe" on the target may have all of it, whatever this host learns of it; "yes": it
 * has acknowledged it.
 */
export async function endImage(
  writer: RecordWriter,
  sender: ImageSender,
  description: CheckpointDescription,
  { signal, sent }: { readonly signal: AbortSignal; readonly sent: (word: "maybe" | "yes") => void },
): Promise<void> {
  await writer.write(RecordKind.DESCRIPTION, CheckpointDescription.encode(description).finish());
  await writer.end();
  signal.throwIfAborted();
  sent("maybe");
  await sender.finish();
  sent("yes");
}
