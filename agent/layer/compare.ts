import { ROOT_PATH, parentPath } from "./paths.ts";
import type { EntryStamp, LayerManifest } from "./stamp.ts";

export interface LayerChange {
  /** New or different, parents before children. */
  readonly changed: string[];
  /** Gone: only the topmost of a tree, and none that a changed entry replaces. */
  readonly deleted: string[];
}

function same(before: EntryStamp, after: EntryStamp): boolean {
  return (
    before.settled &&
    before.kind === after.kind &&
    before.inode === after.inode &&
    before.ctimeNs === after.ctimeNs &&
    before.mtimeNs === after.mtimeNs &&
    before.sizeBytes === after.sizeBytes &&
    before.mode === after.mode &&
    before.uid === after.uid &&
    before.gid === after.gid
  );
}

/**
 * These and all other names of the same files: sent without them, such a file would be another one than theirs.
 */
export function withOtherNames(paths: Iterable<string>, layer: LayerManifest): Set<string> {
  const all = new Set(paths);
  const inodes = new Set<bigint>();
  for (const path of all) {
    const stamp = layer.get(path);
    if (stamp !== undefined && stamp.kind !== "directory" && stamp.kind !== "whiteout")
      inodes.add(stamp.inode);
  }
  if (inodes.size > 0)
    for (const [path, { inode, kind }] of layer) if (kind !== "directory" && inodes.has(inode)) all.add(path);
  return all;
}

/** What has to be sent again so that a copy in the state `before` gets into the state `after`. */
export function compareLayers(before: LayerManifest, after: LayerManifest): LayerChange {
  const changed: string[] = [];
  for (const [path, stamp] of after) {
    const earlier = before.get(path);
    if (earlier === undefined || !same(earlier, stamp)) changed.push(path);
  }
  const deleted: string[] = [];
  for (const path of before.keys()) {
    if (after.has(path) || path === ROOT_PATH) continue;
    const parent = parentPath(path);
    if (parent === ROOT_PATH || after.get(parent)?.kind === "directory") deleted.push(path);
  }
  return { changed, deleted };
}
