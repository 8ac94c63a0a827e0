import { readdir, readFile, readlink } from "node:fs/promises";

/**
 * What CRIU would wait for, or take along without a complaint and wrongly. Answers what it is in an operator's words. Looks at
 * processes that run: what is opened afterwards is not seen.
 */
export async function findObstacle(pids: Iterable<number>): Promise<string | undefined> {
  for (const pid of pids) {
    const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
    // CRIU would wait for it without end, with everything frozen.
    if (/^State:\s*T/m.test(status))
      return `process ${pid} is stopped (SIGSTOP); let it go on with SIGCONT first`;
    for (const descriptor of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const target = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => "");
      if (target !== "anon_inode:[eventfd]") continue;
      const info = await readFile(`/proc/${pid}/fdinfo/${descriptor}`, "utf8").catch(() => "");
      // CRIU restores it as a plain counter, which hands out all at once what it is to hand out one by one.
      if (/^eventfd-semaphore:\s*1$/m.test(info))
        return `process ${pid} holds an eventfd semaphore (EFD_SEMAPHORE), which CRIU cannot restore as one`;
    }
  }
  return undefined;
}
