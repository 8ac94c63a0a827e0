import { until } from "../e2e/cluster.ts";
import { signal } from "./faults.ts";
import { heldProcess, orderHold, withdrawHold } from "./hold.ts";
import type { Laboratory } from "./laboratory.ts";
import type { When } from "./points.ts";

export interface Outcome {
  readonly outcome: "moved" | "stayed" | "ended";
  readonly words: string;
}

/** Orders a process to stop at a point, and takes the order back afterwards. */
export async function heldAt<T>(
  laboratory: Laboratory,
  side: string,
  point: string,
  when: When,
  use: (held: () => Promise<number>) => Promise<T>,
): Promise<T> {
  const folder = laboratory.holdFolder(side);
  orderHold(folder, { point, when });
  let pid: number | undefined;
  try {
    return await use(async () => {
      pid = await until(`${side} to come to ${when} ${point}`, () => heldProcess(folder), 60_000);
      return pid;
    });
  } finally {
    withdrawHold(folder);
    if (pid !== undefined) signal(pid, "SIGCONT");
  }
}
