/** What the disk under the log does by itself: no append is faster than it. */
import { randomBytes } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { setTimeout as delay } from "node:timers/promises";

import { quantile } from "../statistics.ts";

/** About an entry of the log that places as many containers as are asked for at a time. */
const ENTRY_BYTES = 50_000;
const EVERY_MS = 20;

export interface Disk {
  readonly syncMedianMs: number;
  readonly sync99Ms: number;
  readonly syncMaxMs: number;
}

/** Writes entries into a file of its own in `folder` and waits until each is on the disk, for `forMs`. */
export async function measureDisk(folder: string, forMs: number): Promise<Disk> {
  const path = join(folder, "disk");
  const bytes = randomBytes(ENTRY_BYTES);
  const took: number[] = [];
  try {
    await using file = await open(path, "w");
    const endAtMs = performance.now() + forMs;
    while (performance.now() < endAtMs) {
      const beganAtMs = performance.now();
      await file.write(bytes);
      await file.sync();
      took.push(performance.now() - beganAtMs);
      await delay(EVERY_MS);
    }
  } finally {
    await rm(path, { force: true });
  }
  return { syncMedianMs: quantile(took, 0.5), sync99Ms: quantile(took, 0.99), syncMaxMs: Math.max(...took) };
}
