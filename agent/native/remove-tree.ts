import { readFile } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { mustRun, runCommand } from "./command.ts";

/** Mount points at or below `folder`, deepest first, from /proc/self/mountinfo. */
async function mountsBelow(folder: string): Promise<string[]> {
  const text = await readFile("/proc/self/mountinfo", "utf8");
  return text
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .map((path) => path.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))))
    .filter((path) => path === folder || path.startsWith(`${folder}/`))
    .reverse();
}

/** Unmounts everything at or below `folder`. A busy mount is detached: it goes when its last user does. */
export async function unmountBelow(folder: string): Promise<void> {
  for (let round = 0; round < 10; round += 1) {
    const mounts = await mountsBelow(folder);
    if (mounts.length === 0) return;
    for (const mount of mounts) {
      const { code } = await runCommand("umount", ["--", mount]);
      if (code !== 0) await runCommand("umount", ["--lazy", "--", mount]);
    }
  }
  throw new GodwitError("internal", `mounts below ${folder} cannot be unmounted`);
}

/**
 * Deletes a folder and all below it. Never follows a mount: whatever is mounted below is unmounted first, and
 * rm stays on one file system (a restore that was killed half-way can leave the host's root mounted below).
 */
export async function removeTree(folder: string): Promise<void> {
  await unmountBelow(folder);
  await mustRun("rm", ["-rf", "--one-file-system", "--", folder], { timeoutMs: 300_000 });
}
