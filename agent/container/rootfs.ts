import { lstat, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";
import { mount, MountFlag } from "../native/process.ts";
import { unmountBelow } from "../native/remove-tree.ts";

/** One overlayfs: `lower` (top first) under a writable layer. */
export interface OverlayMount {
  readonly lower: readonly string[];
  readonly upper: string;
  /** Empty folder on the file system of `upper`. */
  readonly work: string;
  readonly target: string;
}

export async function mountOverlay(overlay: OverlayMount): Promise<void> {
  const mountIt = await prepareOverlay(overlay);
  mountIt();
}

/** All that has to be done before. Answers the mount itself, which takes a fraction of a millisecond. */
export async function prepareOverlay(overlay: OverlayMount): Promise<() => void> {
  for (const folder of [overlay.upper, overlay.work, overlay.target])
    await mkdir(folder, { recursive: true });
  await unmountBelow(overlay.target);
  const options = `lowerdir=${overlay.lower.join(":")},upperdir=${overlay.upper},workdir=${overlay.work},xino=off`;
  // The call itself, for the container stands still meanwhile when it is restored: starting mount(8) takes longer.
  return () => mount("overlay", overlay.target, "overlay", MountFlag.none, options);
}

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: number[];
}

/**
 * "uid[:gid]" or names, looked up in the container's own /etc/passwd and /etc/group. Those files are the
 * image's: they are read only when no component of their path is a link, which could lead to the host's.
 */
export async function resolveUser(rootfs: string, user: string): Promise<ResolvedUser> {
  if (user === "") return { uid: 0, gid: 0, additionalGids: [] };
  const [userPart = "", groupPart] = user.split(":");
  const passwd = await readTable(`${rootfs}/etc/passwd`);
  const groups = await readTable(`${rootfs}/etc/group`);
  const numeric = /^\d+$/;
  const entry = passwd.find((fields) => fields[0] === userPart || fields[2] === userPart);
  if (entry === undefined && !numeric.test(userPart)) {
    throw new GodwitError(
      "invalid",
      `the image has no user '${userPart}'; give a number or one of its /etc/passwd`,
    );
  }
  const uid = Number(entry?.[2] ?? userPart);
  let gid = Number(entry?.[3] ?? 0);
  if (groupPart !== undefined) {
    const group = groups.find((fields) => fields[0] === groupPart || fields[2] === groupPart);
    if (group === undefined && !numeric.test(groupPart)) {
      throw new GodwitError(
        "invalid",
        `the image has no group '${groupPart}'; give a number or one of its /etc/group`,
      );
    }
    gid = Number(group?.[2] ?? groupPart);
  }
  const name = entry?.[0];
  const additionalGids = groups
    .filter((fields) => name !== undefined && (fields[3] ?? "").split(",").includes(name))
    .map((fields) => Number(fields[2]));
  return { uid, gid, additionalGids };
}

async function readTable(path: string): Promise<string[][]> {
  try {
    const folder = await lstat(dirname(path));
    const file = await lstat(path);
    if (!folder.isDirectory() || !file.isFile() || file.size > 4 * 1024 * 1024) return [];
    const text = await readFile(path, "utf8");
    return text.split("\n").map((line) => line.split(":"));
  } catch {
    return []; // an image without users is a legal one
  }
}
