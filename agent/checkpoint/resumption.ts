import { existsSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";

/**
 * Whatever notification fails after post-restore, CRIU goes on (criu/cr-restore.c), pre-resume being the last before a
 * task can come to its own first instruction: either its agent lives then and leaves this mark before it answers, or
 * CRIU gets no answer, and calls that an error.
 */
const MARK = "resumes";
const UNANSWERED = /Pre-resume script ret code/;
/** CRIU writes it (its statistics) when it has let go of the last task: the image is not needed once more. */
export const RESUMED_FILE = "stats-restore";
const PATIENCE_MS = 60_000;

/** To be left before CRIU is answered that it may resume. On the image's tmpfs: not worth a microsecond's waiting. */
export const markResumption = (imagesDir: string): void => writeFileSync(`${imagesDir}/${MARK}`, "");

/**
 * Whether any task of a restore that nobody has watched to its end may have run. Waits while its CRIU is at work.
 * @param pids of the container's cgroup, CRIU's own among them
 */
export async function mayHaveResumed(imagesDir: string, pids: () => readonly number[]): Promise<boolean> {
  const deadlineMs = performance.now() + PATIENCE_MS;
  for (;;) {
    // In this order: one that ends in between has written its log.
    const isAtWork = pids().some(isCriu);
    if (existsSync(`${imagesDir}/${MARK}`) || UNANSWERED.test(logOf(imagesDir))) return true;
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
