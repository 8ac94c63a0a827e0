import { readFileSync } from "node:fs";
import { join } from "node:path";

export const CURRENT = "log.current";
export const PREVIOUS = "log.previous";
/** A log.current that a rotation is about to put in place. */
export const NEXT = "log.next";
export const INDEX = "log.json";

/** log.json: at what offset of the container's whole log each of its files begins. */
export interface LogIndex {
  readonly files: readonly { readonly inode: number; readonly baseOffset: number }[];
}

/** Text that is no index (there is none yet) counts as one that knows no file. */
export function parseIndex(text: string): LogIndex {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && "files" in value && Array.isArray(value.files)) {
      return value as LogIndex;
    }
  } catch {
    // falls through: it is written by a rename, so only a lost disk block gets us here
  }
  return { files: [] };
}

export function readIndexSync(dir: string): LogIndex {
  try {
    return parseIndex(readFileSync(join(dir, INDEX), "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { files: [] };
    throw error;
  }
}
