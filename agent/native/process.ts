import { readFileSync } from "node:fs";
import { constants } from "node:os";

import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";

/**
 * System calls on processes, namespaces and mounts that Node has no word for.
 *
 * unshare, setns and mount act on the calling thread (or on what it shares with its process). Node's own
 * asynchronous file calls run on other threads, which stay where they were: after one of these, use the
 * synchronous forms only, until execve has replaced the process.
 */
const libc = koffi.load(null);
const prctl = libc.func(
  "int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)",
);
const waitid = libc.func("int waitid(int idtype, unsigned int id, _Out_ uint8_t *info, int options)");
const unshareCall = libc.func("int unshare(int flags)");
const setnsCall = libc.func("int setns(int fd, int flags)");
const mountCall = libc.func(
  "int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)",
);
const sethostname = libc.func("int sethostname(const char *name, size_t length)");
const setHandler = libc.func("void *signal(int number, void *handler)");
const syscall = libc.func("long syscall(long number, ...)");
const umount2 = libc.func("int umount2(const char *target, int flags)");

const PR_SET_CHILD_SUBREAPER = 36;
const P_ALL = 0;
const P_PID = 1;
const WNOHANG = 1;
const WEXITED = 4;
const WNOWAIT = 0x01000000;
const CLD_EXITED = 1;
/** sizeof(siginfo_t) on every 64-bit Linux. */
const SIGINFO_BYTES = 128;

export const Namespace = {
  mount: 0x00020000,
  cgroup: 0x02000000,
  uts: 0x04000000,
  network: 0x40000000,
  /** Not a namespace: the root, the working folder and the umask. setns(mount) needs them unshared first. */
  fileSystemState: 0x00000200,
} as const;

export const MountFlag = {
  none: 0,
  noSuid: 2,
  noDev: 4,
  noExec: 8,
  bind: 4096,
  move: 8192,
  recursive: 16384,
  private: 1 << 18,
} as const;

function failed(call: string): GodwitError {
  const errno = koffi.errno();
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
  return new GodwitError("internal", `${call}: ${name}`);
}

/** From now on, descendants whose parent dies become children of this process. */
export function becomeSubreaper(): void {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) !== 0) throw failed("prctl(PR_SET_CHILD_SUBREAPER)");
}

export interface ChildExit {
  readonly pid: number;
  /** As a shell tells it: the exit status, or 128 + the signal's number. */
  readonly code: number;
  /** The signal's number; 0 for an ordinary exit. */
  readonly signal: number;
}

/** One child that has died and is not reaped yet, or undefined. It is left as it is. */
export function peekDeadChild(): ChildExit | undefined {
  return wait(P_ALL, 0, WEXITED | WNOHANG | WNOWAIT);
}

/** Reaps this one child, if it has died. */
export function reapChild(pid: number): ChildExit | undefined {
  return wait(P_PID, pid, WEXITED | WNOHANG);
}

function wait(idType: number, id: number, options: number): ChildExit | undefined {
  const info = Buffer.alloc(SIGINFO_BYTES);
  for (;;) {
    if (waitid(idType, id, info, options) === 0) break;
    const errno = koffi.errno();
    if (errno === constants.errno.ECHILD) return undefined;
    if (errno !== constants.errno.EINTR) throw failed("waitid");
  }
  const pid = info.readInt32LE(12 + 4);
  if (pid === 0) return undefined;
  const status = info.readInt32LE(24);
  return info.readInt32LE(8) === CLD_EXITED
    ? { pid, code: status, signal: 0 }
    : { pid, code: 128 + status, signal: status };
}

export interface ProcessStat {
  /** One letter as in ps: R, S, D, T, t, Z, X, I. */
  readonly state: string;
  readonly parentPid: number;
  /** The pid of the leader of its Unix session. */
  readonly session: number;
  /** Clock ticks from boot to the process's start: with the pid, it names one process for good. */
  readonly startTicks: number;
  /** Of a zombie: how it ended, as `ChildExit` tells it. Of a process that is alive: no meaning. */
  readonly exit: { readonly code: number; readonly signal: number };
}

/** undefined when there is no such process. A dead one that nobody has reaped is still there (state Z). */
export function processStat(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The name may hold blanks and brackets: what follows its last bracket is plain.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const status = Number(fields[49]);
  const signal = status & 0x7f;
  return {
    state: fields[0] ?? "?",
    parentPid: Number(fields[1]),
    session: Number(fields[3]),
    startTicks: Number(fields[19]),
    exit: { code: signal === 0 ? status >> 8 : 128 + signal, signal },
  };
}

/** Whether the process that was seen with these start ticks is alive still (a zombie is not). */
export function isAlive(pid: number, startTicks: number): boolean {
  const stat = processStat(pid);
  return stat !== undefined && stat.startTicks === startTicks && stat.state !== "Z" && stat.state !== "X";
}

/**
 * Signals the process with this pid and these start ticks, and no other that has taken its number since.
 * Answers false when it is gone.
 */
export function signalExactly(pid: number, startTicks: number, signal: NodeJS.Signals): boolean {
  // Between the check and the signal the pid could be used again only after 4 million other processes.
  if (!isAlive(pid, startTicks)) return false;
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw GodwitError.from(error);
  }
}

/** @param namespaces a sum of `Namespace` values */
export function unshare(namespaces: number): void {
  if (unshareCall(namespaces) !== 0) throw failed(`unshare(0x${namespaces.toString(16)})`);
}

/** @param descriptor an opened /proc/PID/ns/… or /run/netns/… */
export function enterNamespace(descriptor: number, namespace: number): void {
  if (setnsCall(descriptor, namespace) !== 0) throw failed(`setns(0x${namespace.toString(16)})`);
}

/** @param flags a sum of `MountFlag` values */
export function mount(
  source: string,
  target: string,
  type: string | null,
  flags: number,
  data: string | null = null,
): void {
  if (mountCall(source, target, type, flags, data) !== 0)
    throw failed(`mount ${type ?? source} on ${target}`);
}

const MNT_DETACH = 2;
/** Takes a mount and all below it out of the tree; it goes for good when its last user does. */
export function detachMount(target: string): void {
  if (umount2(target, MNT_DETACH) !== 0) throw failed(`umount ${target}`);
}

export function setHostName(name: string): void {
  if (sethostname(name, Buffer.byteLength(name)) !== 0) throw failed("sethostname");
}

/** The same number on every architecture. */
const SYS_CLOSE_RANGE = 436;
const CLOSE_RANGE_CLOEXEC = 4;

/**
 * Becomes another program; the pid stays. Signals that Node ignores get their default meaning again, and no
 * descriptor but 0, 1 and 2 is passed on.
 * @param path of the program's file, in full
 */
export function replaceProcess(path: string, argv: readonly string[], environment: NodeJS.ProcessEnv): never {
  for (const number of [constants.signals.SIGPIPE, constants.signals.SIGXFSZ]) setHandler(number, null);
  const all = 0xffff_ffff;
  if (Number(syscall(SYS_CLOSE_RANGE, "uint", 3, "uint", all, "uint", CLOSE_RANGE_CLOEXEC)) !== 0) {
    throw failed("close_range");
  }
  if (process.execve === undefined) throw new GodwitError("unavailable", "Node 24 or later is needed");
  process.execve(path, argv, environment);
  throw new GodwitError("internal", `${path} cannot be executed`);
}
