import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** What /proc says of processes that may end at any moment: nothing, then. */

export function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

export function readLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

/** As latin1: a process names itself and its files in whatever bytes it likes. */
export function readText(file: string): string {
  try {
    return readFileSync(file, "latin1");
  } catch {
    return "";
  }
}
