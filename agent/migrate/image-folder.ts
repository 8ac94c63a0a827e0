import { statSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";

import { mustRun } from "../native/command.ts";
import { removeTree } from "../native/remove-tree.ts";

/**
 * A folder for one checkpoint image: a tmpfs of its own that only root can enter. Memory pages are secrets of
 * the container; they never reach a disk in the clear, and unmounting gives their memory back at once.
 */
export async function makeImageFolder(folder: string): Promise<void> {
  await removeTree(folder);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  // No size: the tmpfs default of half the memory would fail a container that is larger; memory itself bounds it.
  await mustRun("mount", [
    "-t",
    "tmpfs",
    "-o",
    "mode=0700,size=0,nosuid,nodev,noexec",
    "godwit-image",
    folder,
  ]);
}

export interface ImageFile {
  readonly name: string;
  readonly sizeBytes: number;
}

/** The image's files; CRIU's logs and what the image builds upon left out. */
export async function listImageFiles(folder: string): Promise<ImageFile[]> {
  const names = (await readdir(folder, { withFileTypes: true }))
    .filter((entry) => entry.isFile() && !entry.name.endsWith(".log"))
    .map(({ name }) => name);
  return names.sort().map((name) => ({ name, sizeBytes: statSync(`${folder}/${name}`).size }));
}
