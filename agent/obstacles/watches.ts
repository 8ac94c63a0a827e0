import { lstatSync } from "node:fs";
import { setImmediate as breathe } from "node:timers/promises";

import { listFolder, readLink, readText } from "../native/proc.ts";

/** A file that a process watches with inotify, as its fdinfo tells it. */
export interface Watch {
  /** "device:inode" in decimal, as stat tells them. */
  readonly file: string;
  /** Ends with its first event (IN_ONESHOT), which CRIU does not restore. */
  readonly once: boolean;
}

const IN_ONESHOT = 0x80000000;

/** Of the text of /proc/PID/fdinfo/FD. Pure. */
export function parseWatches(fdinfo: string): Watch[] {
  const watches: Watch[] = [];
  for (const match of fdinfo.matchAll(
    /^inotify wd:\S+ ino:([0-9a-f]+) sdev:([0-9a-f]+) mask:([0-9a-f]+)/gm,
  )) {
    const [, inode = "", device = "", mask = ""] = match;
    watches.push({
      file: `${userDevice(parseInt(device, 16))}:${BigInt(`0x${inode}`)}`,
      once: (parseInt(mask, 16) & IN_ONESHOT) !== 0,
    });
  }
  return watches;
}

/** The kernel's own number of a device (12 bits major, 20 bits minor) as stat shows it. */
function userDevice(device: number): number {
  const minor = device & 0xfffff;
  return ((device >>> 20) << 8) | (minor & 0xff) | ((minor & ~0xff) << 12);
}

/** What inotify watches of the processes there are. */
export function watchesOf(pids: Iterable<number>): Watch[] {
  return [...pids].flatMap((pid) =>
    listFolder(`/proc/${pid}/fd`).flatMap((descriptor) =>
      /^anon_inode:\[?inotify\]?$/.test(readLink(`/proc/${pid}/fd/${descriptor}`))
        ? parseWatches(readText(`/proc/${pid}/fdinfo/${descriptor}`))
        : [],
    ),
  );
}

/** A container with more files than this is not searched to its end. */
const MAX_FILES = 300_000;
const TURN_MS = 4;

/**
 * Finds by which paths a container's watched files can be opened. An overlay's file handles cannot be opened, so CRIU
 * needs to be told where to look; what was found is remembered for as long as it is true.
 */
export class WatchedPaths {
  readonly #known = new Map<string, string>();

  /** `missing`: those that were not found. */
  async find(
    initPid: number,
    watches: readonly Watch[],
  ): Promise<{ readonly paths: readonly string[]; readonly missing: readonly Watch[] }> {
    const root = `/proc/${initPid}/root`;
    const device = String(lstatSync(`${root}/.`).dev);
    // Files of other file systems, such as /dev/shm, have handles that can be opened.
    const wanted = new Set(
      watches.map(({ file }) => file).filter((file) => file.slice(0, file.indexOf(":")) === device),
    );
    const found = new Map<string, string>();
    for (const file of wanted) {
      const path = this.#known.get(file);
      if (path !== undefined && fileAt(`${root}${path}`)?.file === file) found.set(file, path);
    }
    if (found.size < wanted.size) await search(root, device, wanted, found);
    this.#known.clear();
    for (const [file, path] of found) this.#known.set(file, path);
    return {
      paths: [...found.values()],
      missing: watches.filter(({ file }) => wanted.has(file) && !found.has(file)),
    };
  }
}

/** Level by level: what is watched lies rarely deep. */
async function search(
  root: string,
  device: string,
  wanted: ReadonlySet<string>,
  found: Map<string, string>,
): Promise<void> {
  let turnMs = performance.now();
  let seen = 0;
  const folders = ["/."]; // grows while it is gone through
  const top = fileAt(`${root}/.`);
  if (top !== undefined && wanted.has(top.file)) found.set(top.file, "/.");
  for (const folder of folders) {
    const prefix = folder === "/." ? "" : folder;
    for (const name of listFolder(`${root}${folder}`)) {
      seen += 1;
      const path = `${prefix}/${name}`;
      const entry = fileAt(`${root}${path}`);
      if (entry === undefined || !entry.file.startsWith(`${device}:`)) continue;
      if (wanted.has(entry.file) && !found.has(entry.file)) found.set(entry.file, path);
      if (found.size === wanted.size || seen > MAX_FILES) return;
      if (entry.isFolder) folders.push(path);
      if (performance.now() - turnMs < TURN_MS) continue;
      await breathe();
      turnMs = performance.now();
    }
  }
}

function fileAt(path: string): { readonly file: string; readonly isFolder: boolean } | undefined {
  try {
    // An overlay may use all 64 bits of an inode's number.
    const stat = lstatSync(path, { bigint: true });
    return { file: `${stat.dev}:${stat.ino}`, isFolder: stat.isDirectory() };
  } catch {
    return undefined; // gone
  }
}
