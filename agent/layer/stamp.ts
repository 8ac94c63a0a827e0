import type { BigIntStats } from "node:fs";

import { splitDeviceNumber } from "../native/files.ts";

export type EntryKind =
  "file" | "directory" | "symlink" | "fifo" | "socket" | "character" | "block" | "whiteout";

/** What tells two states of one path apart without reading it. */
export interface EntryStamp {
  readonly kind: EntryKind;
  readonly inode: bigint;
  readonly sizeBytes: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  /** Permissions with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /**
   * False if the entry changed so shortly before that a further change may have got the same time: the
   * kernel's clock for files ticks each 1 to 10 ms. Such a stamp proves nothing.
   */
  readonly settled: boolean;
}

/** By path (see paths.ts), parents before children. */
export type LayerManifest = ReadonlyMap<string, EntryStamp>;

const SETTLED_AFTER_NS = 50_000_000n;

function kindOf(stats: BigIntStats): EntryKind {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "directory";
  if (stats.isSymbolicLink()) return "symlink";
  if (stats.isFIFO()) return "fifo";
  if (stats.isSocket()) return "socket";
  if (stats.isBlockDevice()) return "block";
  const { major, minor } = splitDeviceNumber(stats.rdev);
  // Overlayfs marks a deleted lower file by a character device 0/0.
  return major === 0 && minor === 0 ? "whiteout" : "character";
}

/** `nowMs` is the wall clock just before `stats` were taken. */
export function stampOf(stats: BigIntStats, nowMs: number): EntryStamp {
  const kind = kindOf(stats);
  if (kind === "whiteout") {
    // Overlayfs makes all whiteouts hard links of one inode, whose times change with each of them.
    return {
      kind,
      inode: 0n,
      sizeBytes: 0,
      mtimeNs: 0n,
      ctimeNs: 0n,
      mode: 0,
      uid: 0,
      gid: 0,
      settled: true,
    };
  }
  return {
    kind,
    inode: stats.ino,
    sizeBytes: Number(stats.size),
    mtimeNs: stats.mtimeNs,
    ctimeNs: stats.ctimeNs,
    mode: Number(stats.mode & 0o7777n),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    settled: stats.ctimeNs < BigInt(Math.floor(nowMs)) * 1_000_000n - SETTLED_AFTER_NS,
  };
}
