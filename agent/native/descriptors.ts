import { closeSync, readdirSync, readlinkSync } from "node:fs";

import koffi from "koffi";

/** Descriptors of other processes: see pidfd_getfd(2). */
const libc = koffi.load("libc.so.6");
const syscall = libc.func("long syscall(long number, ...)");

/** The same numbers on every architecture. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

/** A copy of another process's descriptor, for the caller to close. @throws when either is gone */
export function takeDescriptor(pid: number, descriptor: number): number {
  const process = Number(syscall(SYS_PIDFD_OPEN, "int", pid, "uint", 0));
  if (process < 0) throw new Error(`pidfd_open(${pid}): errno ${koffi.errno()}`);
  try {
    const taken = Number(syscall(SYS_PIDFD_GETFD, "int", process, "int", descriptor, "uint", 0));
    if (taken < 0) throw new Error(`pidfd_getfd(${pid}, ${descriptor}): errno ${koffi.errno()}`);
    return taken;
  } finally {
    closeSync(process);
  }
}

/**
 * Copies of the process's descriptors whose /proc/PID/fd link begins like this; they are the caller's to close. None
 * when it has ended.
 */
export function copyDescriptors(pid: number, link: string): number[] {
  return descriptorsOf(pid, link).flatMap((number) => {
    try {
      return [takeDescriptor(pid, number)];
    } catch {
      return []; // closed meanwhile, or the process has ended
    }
  });
}

function descriptorsOf(pid: number, link: string): number[] {
  const found: number[] = [];
  try {
    for (const number of readdirSync(`/proc/${pid}/fd`))
      if (readlinkSync(`/proc/${pid}/fd/${number}`).startsWith(link)) found.push(Number(number));
  } catch {
    // One was closed while this looked, or the process has ended: what was found until then counts.
  }
  return found;
}
