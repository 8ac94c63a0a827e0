import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { ContainerRecord } from "../model/record.ts";
import { endSocketRepair } from "../native/socket-repair.ts";

/** Lets a container that was frozen for a migration go on here. */
export async function thaw(runtime: ContainerRuntime, record: ContainerRecord): Promise<void> {
  if (record.status.kind !== "frozen") return;
  await untraced(record.status.init.pid);
  // Where CRIU was killed, nobody has.
  endSocketRepair(runtime.cgroup.processes());
  await runtime.reattachOutput(record.status.init);
  (await runtime.plug(record)).plugIn();
  runtime.cgroup.limitCpu(record.spec.limits?.cpuMillis ?? 0);
  runtime.cgroup.thaw();
}

const TRACE_DEADLINE_MS = 60_000;

/**
 * Waits until no CRIU holds the process: one whose agent died cures it and lets go. Ending that CRIU in
 * between would leave its code inside the process.
 */
async function untraced(pid: number): Promise<void> {
  const deadlineMs = performance.now() + TRACE_DEADLINE_MS;
  for (;;) {
    const tracer = tracerOf(pid);
    if (tracer === 0) return;
    if (performance.now() > deadlineMs) {
      throw new GodwitError(
        "deadline",
        `process ${pid} is still traced by process ${tracer}; end that one by hand`,
      );
    }
    await delay(20);
  }
}

/** The process that traces this one; 0: none, or it is gone. */
function tracerOf(pid: number): number {
  try {
    return Number(/^TracerPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
