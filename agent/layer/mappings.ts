import { readFile } from "node:fs/promises";

/**
 * Files that a process maps shared and writable. A write through such a mapping changes the file's times
 * only when the kernel next cleans the page, so stamps prove nothing about them: they have to be sent again
 * with the final pass whatever compareLayers says.
 *
 * Takes the text of /proc/PID/maps (latin1) and returns paths as in the process's mount namespace, relative
 * and as byte strings. Deleted files are left out: CRIU carries them.
 */
export function sharedWritableFiles(maps: string): string[] {
  const paths = new Set<string>();
  for (const line of maps.split("\n")) {
    const match = /^\S+ (\S{4}) \S+ \S+ (\d+) +(\/.*)$/.exec(line);
    const [, flags = "", inode = "0", path = ""] = match ?? [];
    if (flags[1] !== "w" || flags[3] !== "s" || inode === "0" || path.endsWith(" (deleted)")) continue;
    paths.add(path.slice(1).replaceAll("\\012", "\n"));
  }
  return [...paths];
}

/** The same for all of a container's processes; one that has ended meanwhile maps nothing. */
export async function findSharedWritableFiles(pids: Iterable<number>): Promise<string[]> {
  const paths = new Set<string>();
  for (const pid of pids) {
    let maps: string;
    try {
      maps = await readFile(`/proc/${pid}/maps`, "latin1");
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "ENOENT" || code === "ESRCH") continue;
      throw error;
    }
    for (const path of sharedWritableFiles(maps)) paths.add(path);
  }
  return [...paths];
}
