import { GodwitError } from "../../proto/contract/error.ts";
import type { LogStore, StoredEntry } from "./log-store.ts";

const READ_AHEAD = 64;

/** Both ends included, some at a time. Rejects with `unavailable` where the log was trimmed meanwhile. */
export async function* readEntries(
  log: Pick<LogStore, "bounds" | "readOne">,
  from: number,
  to: number,
): AsyncGenerator<StoredEntry> {
  for (let at = from; at <= to; at += READ_AHEAD) {
    const count = Math.min(READ_AHEAD, to - at + 1);
    const entries = await Promise.all(Array.from({ length: count }, (_, offset) => log.readOne(at + offset)));
    for (const [offset, entry] of entries.entries()) {
      if (entry === undefined) throw await missing(log, at + offset);
      yield entry;
    }
  }
}

const missing = async (log: Pick<LogStore, "bounds">, sequence: number): Promise<GodwitError> => {
  const { first } = await log.bounds();
  return sequence < first
    ? new GodwitError("unavailable", `entry ${sequence} was trimmed away while the log was read`)
    : new GodwitError("corrupt", `entry ${sequence} of the log is missing`);
};
