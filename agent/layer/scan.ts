import {
  closeSync,
  constants,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  type BigIntStats,
} from "node:fs";
import { setImmediate } from "node:timers/promises";

import { ROOT_PATH, atPath } from "./paths.ts";
import { stampOf, type EntryStamp, type LayerManifest } from "./stamp.ts";

/**
 * Synchronous calls take a tenth of the time of asynchronous ones, and this runs while the container is
 * frozen; between batches the event loop gets its turn.
 */
const BATCH = 256;

const isGone = (error: unknown): boolean => {
  const code = (error as NodeJS.ErrnoException).code;
  return code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP";
};

/**
 * A container that runs may put a link in the place of a folder while its files are looked at: what was opened then is
 * not its own, and may be the host's.
 */
export function isAt(descriptor: number, full: Buffer): boolean {
  return readlinkSync(`/proc/self/fd/${descriptor}`, "buffer").equals(full);
}

/** undefined if there is nothing (any more). Does not follow a symbolic link. */
export function statEntry(path: Buffer): BigIntStats | undefined {
  try {
    return lstatSync(path, { bigint: true });
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** Names in byte order, as byte strings; none if the folder is gone, or something else is in its place. */
export function listFolder(path: Buffer): string[] {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    if (!isAt(descriptor, path)) return [];
    return readdirSync(`/proc/self/fd/${descriptor}`, { encoding: "latin1" }).sort();
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/** Every path below `root`, itself first, parents before children. What vanishes meanwhile is left out. */
export async function* walkLayer(
  root: Buffer,
  signal: AbortSignal,
): AsyncGenerator<{ path: string; stamp: EntryStamp }, void, undefined> {
  const pending = [ROOT_PATH];
  for (let path = pending.pop(), visited = 0; path !== undefined; path = pending.pop()) {
    if (++visited % BATCH === 0) {
      await setImmediate();
      signal.throwIfAborted();
    }
    const full = atPath(root, path);
    const nowMs = Date.now();
    const stats = statEntry(full);
    if (stats === undefined) {
      if (path === ROOT_PATH)
        throw Object.assign(new Error(`ENOENT: no layer at ${root.toString()}`), { code: "ENOENT" });
      continue;
    }
    const stamp = stampOf(stats, nowMs);
    yield { path, stamp };
    if (stamp.kind !== "directory") continue;
    const names = listFolder(full);
    for (let index = names.length - 1; index >= 0; index--) {
      pending.push(path === ROOT_PATH ? `${names[index]}` : `${path}/${names[index]}`);
    }
  }
}

/** The state of a layer (an overlayfs upperdir), for compareLayers. Cheap: no file is read. */
export async function scanLayer(upperDir: string, signal: AbortSignal): Promise<LayerManifest> {
  signal.throwIfAborted();
  const manifest = new Map<string, EntryStamp>();
  const root = realpathSync(upperDir, "buffer");
  for await (const { path, stamp } of walkLayer(root, signal)) manifest.set(path, stamp);
  return manifest;
}
