import { closeSync, readdirSync, readlinkSync } from "node:fs";

import koffi from "koffi";

/** Descriptors of other processes: see pidfd_getfd(2). */
const libc = koffi.load("libc.so.6");
const syscall = libc.func("long syscall(long number, ...)");

/** The same numbers on every architecture. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

/**
 * Copies of the process's descriptors whose /proc/PID/fd link begins like this; they are the caller's to close. None
 * when it has ended.
 */
export function copyDescriptors(pid: number, link: string): number[] {
  const process = Number(syscall(SYS_PIDFD_OPEN, "int", pid, "uint", 0));
  if (process < 0) return [];
  const copies: number[] = [];
  try {
    for (const number of descriptorsOf(pid, link)) {
      const copy = Number(syscall(SYS_PIDFD_GETFD, "int", process, "int", number, "uint", 0));
      if (copy >= 0) copies.push(copy); // else closed meanwhile
    }
  } finally {
    closeSync(process);
  }
  return copies;
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
