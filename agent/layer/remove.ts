import { readFile } from "node:fs/promises";
import { rmdirSync, unlinkSync } from "node:fs";
import { setImmediate } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { statEntry, listFolder } from "./scan.ts";

const BATCH = 256;

/**
 * Deleting recursively as root is how a bind mount left below costs a host its root file system. Here it
 * takes two independent reasons to go on: no mount point at or below the path in this mount namespace, and
 * each folder on the same device as the top.
 */

/** Mount points of this mount namespace, as byte strings. */
async function listMountPoints(): Promise<string[]> {
  const text = await readFile("/proc/self/mountinfo", "latin1");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const field = line.split(" ")[4] ?? "";
      return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
        String.fromCharCode(Number.parseInt(digits, 8)),
      );
    });
}

function mountPointsBelow(path: string, mountPoints: readonly string[]): string[] {
  return mountPoints.filter((point) => point === path || point.startsWith(`${path}/`));
}

/**
 * Removes a tree without following symbolic links or mounts; nothing there is fine. `path` must be absolute
 * and without symbolic links itself. Throws GodwitError `refused` before anything is removed if something
 * is mounted there.
 */
export async function removeTree(path: Buffer): Promise<void> {
  const stats = statEntry(path);
  if (stats === undefined) return;
  if (!stats.isDirectory()) {
    unlinkSync(path);
    return;
  }
  const mounted = mountPointsBelow(path.toString("latin1"), await listMountPoints());
  if (mounted.length > 0) {
    const what = Buffer.from(mounted[0] ?? "", "latin1").toString("utf8");
    throw new GodwitError(
      "refused",
      `'${path.toString()}' is not removed: '${what}' is mounted there; unmount it first`,
    );
  }
  await removeFolder(path, stats.dev, { removed: 0 });
}

async function removeFolder(path: Buffer, device: bigint, progress: { removed: number }): Promise<void> {
  for (const name of listFolder(path)) {
    // Synchronous calls are much faster; in between, others get their turn.
    if (++progress.removed % BATCH === 0) await setImmediate();
    const child = Buffer.concat([path, Buffer.from(`/${name}`, "latin1")]);
    const stats = statEntry(child);
    if (stats === undefined) continue;
    if (!stats.isDirectory()) unlinkSync(child);
    else if (stats.dev === device) await removeFolder(child, device, progress);
    else
      throw new GodwitError("refused", `'${child.toString()}' is on another file system and is not removed`);
  }
  rmdirSync(path);
}
