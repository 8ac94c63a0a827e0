import { mkdirSync, statSync, symlinkSync } from "node:fs";
import { dirname } from "node:path";

import { makeNode } from "../native/files.ts";
import { mount, MountFlag } from "../native/process.ts";
import { unmountBelow } from "../native/remove-tree.ts";
import type { ContainerPaths } from "./paths.ts";

/**
 * A container's /dev and /dev/shm are file systems in memory that belong to the host: the container sees them as bind
 * mounts, which CRIU leaves alone. Of its own tmpfs mounts it would make archives while the container stands still,
 * with `tar` and `gzip`, some 7 ms each at the dump and again at the restore, and with all of a large shared memory
 * file. What is in these travels like the writable layer instead: while the container runs, then what has changed.
 */
export interface DevMount {
  /** Names its content in the image stream. */
  readonly name: "dev" | "shm";
  /** In the container. */
  readonly destination: "/dev" | "/dev/shm";
}

export const DEV_MOUNTS: readonly DevMount[] = [
  { name: "dev", destination: "/dev" },
  { name: "shm", destination: "/dev/shm" },
];

/** What runc would have put there, had /dev been its own. */
const DEVICES: readonly (readonly [name: string, major: number, minor: number])[] = [
  ["null", 1, 3],
  ["zero", 1, 5],
  ["full", 1, 7],
  ["random", 1, 8],
  ["urandom", 1, 9],
  ["tty", 5, 0],
];
const LINKS: readonly (readonly [name: string, target: string])[] = [
  ["fd", "/proc/self/fd"],
  ["stdin", "/proc/self/fd/0"],
  ["stdout", "/proc/self/fd/1"],
  ["stderr", "/proc/self/fd/2"],
  ["ptmx", "pts/ptmx"],
];
const MOUNT_POINTS = ["pts", "shm", "mqueue"];
const S_IFCHR = 0o020000;
const DEV_BYTES = 64 * 1024 * 1024;

/** Both as a container begins with them. Those of an earlier start are gone then. */
export async function makeDevMounts(paths: ContainerPaths, shmBytes: number): Promise<void> {
  await dropDevMounts(paths);
  mkdirSync(paths.dev, { recursive: true, mode: 0o700 });
  mkdirSync(paths.shm, { recursive: true, mode: 0o700 });
  mount("godwit-dev", paths.dev, "tmpfs", MountFlag.noSuid, `mode=755,size=${DEV_BYTES}`);
  const flags = MountFlag.noSuid + MountFlag.noDev + MountFlag.noExec;
  mount("godwit-shm", paths.shm, "tmpfs", flags, `mode=1777,size=${shmBytes}`);
  const umask = process.umask(0);
  try {
    for (const [name, major, minor] of DEVICES)
      makeNode(Buffer.from(`${paths.dev}/${name}`), S_IFCHR | 0o666, BigInt(major * 256 + minor));
  } finally {
    process.umask(umask);
  }
  for (const [name, target] of LINKS) symlinkSync(target, `${paths.dev}/${name}`);
  for (const name of MOUNT_POINTS) mkdirSync(`${paths.dev}/${name}`, { mode: 0o755 });
}

export async function dropDevMounts(paths: ContainerPaths): Promise<void> {
  await unmountBelow(paths.shm);
  await unmountBelow(paths.dev);
}

/** The same after a crash, when the image that was received is in them already. */
export async function keepDevMounts(paths: ContainerPaths, shmBytes: number): Promise<void> {
  const there = [paths.dev, paths.shm].every((folder) => {
    const own = statSync(folder, { throwIfNoEntry: false });
    return own !== undefined && own.dev !== statSync(dirname(folder)).dev;
  });
  if (!there) await makeDevMounts(paths, shmBytes);
}

/** Where the host has the content of a mount. */
export function devMountFolder(paths: ContainerPaths, name: DevMount["name"]): string {
  return name === "dev" ? paths.dev : paths.shm;
}
