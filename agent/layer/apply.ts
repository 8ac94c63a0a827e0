import { setImmediate } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { entryOf } from "./entries.ts";
import { readTar } from "./tar-reader.ts";
import { TreeWriter } from "./tree-writer.ts";

/** More than any container has, and few enough to bound what a hostile stream costs. */
export const MAX_ENTRIES = 10_000_000;

/**
 * Small files are placed without a wait between them, and what has been received already comes without one too: the
 * agent's other work, its lease among it, gets its turn after as long.
 */
const TURN_MS = 10;

/**
 * Writes the entries of packLayer's tar into a layer, over what is there: first the whole, then each
 * difference. The same tar twice gives the same result. Throws GodwitError: `invalid` for a path that leads
 * out of the layer, `corrupt` for a damaged tar, `exhausted` if the disk is full.
 */
export async function applyLayer(
  upperDir: string,
  tar: AsyncIterable<Uint8Array>,
  options: { readonly signal: AbortSignal },
): Promise<{ entries: number; bytes: number }> {
  const writer = new TreeWriter(Buffer.from(upperDir));
  let turnMs = performance.now();
  try {
    for await (const { header, body } of readTar(tar, options.signal)) {
      options.signal.throwIfAborted();
      if (writer.entries >= MAX_ENTRIES) throw new GodwitError("refused", "the layer has too many entries");
      await writer.place(header.name, entryOf(header), body);
      if (performance.now() - turnMs > TURN_MS) {
        await setImmediate();
        turnMs = performance.now();
      }
    }
    writer.finish();
  } catch (error) {
    throw diskError(error);
  }
  return { entries: writer.entries, bytes: writer.bytes };
}

/** Removes paths (compareLayers' `deleted`) from a layer. Those that are not there are fine. */
export async function applyDeletions(upperDir: string, paths: readonly string[]): Promise<void> {
  const writer = new TreeWriter(Buffer.from(upperDir));
  for (const path of paths) await writer.remove(path);
  writer.finish();
}

/** A full disk is for the operator to mend; everything else passes unchanged. */
export function diskError(error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new GodwitError("exhausted", "the disk of this host is full; free some room and try again", {
    cause: error,
  });
}
