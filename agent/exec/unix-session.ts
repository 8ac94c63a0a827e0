import { readdir, readFile, readlink } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

import { processStat } from "../native/process.ts";

/**
 * The processes that one exec brought into a container: runc makes the first one the leader of a Unix session
 * (its pid is the session's number), and what it starts stays in that session unless it goes its own way with
 * setsid. The latter is then the container's own, not the exec's.
 */
export interface SessionLeader {
  readonly pid: number;
  /** Clock ticks from boot to its start. */
  readonly startTicks: number;
  /** As /proc/PID/ns/pid reads: never the host's own. */
  readonly pidNamespace: string;
  readonly bootId: string;
}

const SCAN_PAUSE_MS = 20;

/**
 * What to know of the leader `pid` to kill its session later. A leader that has ended already counts by what it
 * has left; undefined when that is nothing.
 */
export async function describeLeader(pid: number): Promise<SessionLeader | undefined> {
  const bootId = await readBootId();
  const startTicks = processStat(pid)?.startTicks ?? -1;
  const own = await readlink("/proc/self/ns/pid");
  const pidNamespace =
    (await pidNamespaceOf(pid)) ??
    (await sessionProcesses(pid)).map((member) => member.pidNamespace).find((namespace) => namespace !== own);
  if (pidNamespace === undefined || pidNamespace === own) return undefined;
  return { pid, startTicks, pidNamespace, bootId };
}

async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

/**
 * Kills the leader and everything of its session, until nothing of it is left. Answers false when something is
 * left after `withinMs` (a frozen process dies only when it is thawed).
 */
export async function killUnixSession(leader: SessionLeader, withinMs: number): Promise<boolean> {
  // A pid's number is not given out again while a session bears it, so only a leader that is gone with all its
  // session could be mistaken; the start time and the namespace tell then.
  if ((await readBootId()) !== leader.bootId) return true;
  const deadline = performance.now() + withinMs;
  for (;;) {
    const stat = processStat(leader.pid);
    if (stat !== undefined && stat.startTicks !== leader.startTicks) return true;
    const members = await membersOf(leader);
    if (members.length === 0) return true;
    for (const pid of members) {
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    }
    // A member may have forked between the look and its death: look again.
    if (performance.now() > deadline) return false;
    await delay(SCAN_PAUSE_MS);
  }
}

/** Never anything of the host's own: `describeLeader` sees to that. */
async function membersOf(leader: SessionLeader): Promise<number[]> {
  const members = await sessionProcesses(leader.pid);
  return members.filter((member) => member.pidNamespace === leader.pidNamespace).map((member) => member.pid);
}

/** Living processes of a session; the dead that nobody has reaped do not count. */
async function sessionProcesses(session: number): Promise<{ pid: number; pidNamespace: string }[]> {
  const found: { pid: number; pidNamespace: string }[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const text = await readFile(`/proc/${pid}/stat`, "latin1").catch(() => "");
    const [state, , , number] = text.slice(text.lastIndexOf(")") + 2).split(" ");
    if (Number(number) !== session || state === "Z" || state === "X") continue;
    const pidNamespace = await pidNamespaceOf(pid);
    if (pidNamespace !== undefined) found.push({ pid, pidNamespace });
  }
  return found;
}

/** Undefined when there is no such process, or a dead one. */
function pidNamespaceOf(pid: number): Promise<string | undefined> {
  return readlink(`/proc/${pid}/ns/pid`).catch(() => undefined);
}

/** Pids of processes that have `text` as one of their arguments. */
export async function processesWithArgument(text: string): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (commandLine.split("\0").includes(text)) found.push(pid);
  }
  return found;
}
