import { listFolder, readText } from "../native/proc.ts";

/** vfork, and clone with CLONE_VFORK, as x86_64 numbers them. */
const VFORK = "58";
const CLONE = "56";
const CLONE_VFORK = 0x4000;
/** Of a task's flags (linux/sched.h). */
const PF_EXITING = 4;

export interface Unsettled {
  readonly vfork: boolean;
  /** A task is in the middle of its end, and is out of the freezer's reach until that is over. */
  readonly ending: boolean;
  /** Processes, as the container numbers them. */
  readonly exitCodes: readonly string[];
}

/**
 * What the container is in the middle of that CRIU cannot take along, and that passes by itself in a moment:
 *
 * - a thread that waits for the child which it has made with vfork to begin its own program: CRIU waits for the
 *   thread to answer, and while the child stands frozen it never will;
 * - a process that has ended with an exit code of 128 or more and was not waited for yet: CRIU restores such a one
 *   with the lower seven bits only (restore_one_zombie);
 *
 * - a process that has begun to end, of which CRIU says "zombie found while seizing" and gives up (a race in the kernel,
 *   as its sources say; the machine's load decides how long it lasts).
 *
 * Looks through the container's own /proc, for cgroups do not list processes that have ended. For frozen containers.
 */
export function findUnsettled(initPid: number): Unsettled {
  const proc = `/proc/${initPid}/root/proc`;
  const parents = new Set<string>();
  const exitCodes: string[] = [];
  let ending = false;
  for (const pid of listFolder(proc)) {
    if (!/^\d+$/.test(pid)) continue;
    const stat = readText(`${proc}/${pid}/stat`).trim();
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    parents.add(fields[1] ?? "0");
    // The bit stays set in one that has ended for good.
    if (fields[0] !== "Z" && (Number(fields[6]) & PF_EXITING) !== 0) ending = true;
    if (fields[0] === "Z" && Number(fields[49]) >> 8 >= 128) exitCodes.push(pid);
  }
  // A process without a child has not just made one.
  const vfork = [...parents].some((pid) => pid !== "0" && waitsForVfork(`${proc}/${pid}/task`));
  return { vfork, ending, exitCodes };
}

function waitsForVfork(tasks: string): boolean {
  return listFolder(tasks).some((thread) => {
    const [call = "", flags = "0x0"] = readText(`${tasks}/${thread}/syscall`).trim().split(" ");
    if (call !== VFORK && !(call === CLONE && (Number(flags) & CLONE_VFORK) !== 0)) return false;
    // One that has come back from the call and was frozen on its way out still shows the number.
    const place = readText(`${tasks}/${thread}/wchan`).trim();
    return place === "0" || place === "" || /fork|clone/.test(place);
  });
}
