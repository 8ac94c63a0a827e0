import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { PAGE_RUN_HEAD_BYTES } from "../migrate/page-run.ts";
import { readRecords, type StreamRecord } from "../stream/records.ts";
import { NO_BASE, readSealedFile, type SealedFile } from "./sealed-file.ts";

/**
 * A checkpoint and all that it builds upon, the one that holds everything first, as one image stream: files and memory in
 * rounds that each bring what is new, and of the last one alone what CRIU and the agent said of that moment.
 *
 * A page that an earlier one names as gone stays: the last one names again all that was ever brought and is not there.
 */
export async function* readChain(
  files: readonly Omit<SealedFile, "base">[],
): AsyncGenerator<StreamRecord, void, undefined> {
  let base: Uint8Array = NO_BASE;
  for (const [at, file] of files.entries()) {
    let salt: Uint8Array = NO_BASE;
    const records = readRecords(readSealedFile({ ...file, base }, (own) => void (salt = own)));
    if (at === files.length - 1) yield* records;
    else yield* roundsOf(records);
    base = salt;
  }
}

/** What those that build upon it need of it. */
async function* roundsOf(
  records: AsyncIterable<StreamRecord>,
): AsyncGenerator<StreamRecord, void, undefined> {
  let hasPages = false;
  for await (const record of records) {
    const { kind, length } = record.header;
    switch (kind) {
      case RecordKind.LAYER:
      case RecordKind.LAYER_DELETIONS:
      case RecordKind.LOG:
        yield record;
        break;
      case RecordKind.PAGES:
        if (length === PAGE_RUN_HEAD_BYTES) break;
        hasPages = true;
        yield record;
        break;
      case RecordKind.ROUND_END:
        // None of those in between is the last.
        if (hasPages) yield { ...record, header: { ...record.header, name: "" } };
        hasPages = false;
        break;
      default:
        break;
    }
  }
}
