import { readFileSync, readlinkSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";

/**
 * What CRIU writes into its log before a task can come to its own first instruction (criu/cr-restore.c). Whatever
 * notification fails after post-restore, CRIU goes on: only its log tells how far it has come.
 */
const RESUMES = /Running pre-resume scripts|is going to execute the syscall/;
const PATIENCE_MS = 60_000;

/**
 * Whether any task of a restore that nobody has watched to its end may have run. Waits while its CRIU is at work.
 * @param pids of the container's cgroup, CRIU's own among them
 */
export async function mayHaveResumed(imagesDir: string, pids: () => readonly number[]): Promise<boolean> {
  const deadlineMs = performance.now() + PATIENCE_MS;
  for (;;) {
    // In this order: one that ends in between has written its log.
    const isAtWork = pids().some(isCriu);
    if (RESUMES.test(logOf(imagesDir))) return true;
    if (!isAtWork) return false;
    if (performance.now() > deadlineMs)
      throw new GodwitError("deadline", "CRIU neither ends nor resumes a container whose agent has died");
    await delay(10);
  }
}

function logOf(imagesDir: string): string {
  try {
    return readFileSync(`${imagesDir}/restore.log`, "latin1");
  } catch {
    return ""; // it had not begun
  }
}

/** Its tasks, which begin as copies of it, are the container's programs by the time that this is asked. */
function isCriu(pid: number): boolean {
  try {
    return /\/criu(-[\w.]+)?$/.test(readlinkSync(`/proc/${pid}/exe`));
  } catch {
    return false; // it has ended
  }
}
