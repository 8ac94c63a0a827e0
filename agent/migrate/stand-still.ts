import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { findUnsettled, type Unsettled } from "../checkpoint/forking.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { NetworkPlug } from "../network/plug.ts";

const TRIES = 40;
const PATIENCE_MS = 15;
/** An exit code that nobody has asked for after so many looks nobody will miss. */
const EXIT_CODE_LOOKS = 20;

/**
 * Freezes the container at a moment at which CRIU can dump it: not while a connection waits to be accepted, not between
 * a vfork and its exec, and not while an exit code would be lost. All of that passes by itself when the processes go on
 * a little. Where new connections keep coming they are held off meanwhile: those who are held off try again, and reach
 * the target.
 */
export async function freezeAtRest(
  runtime: ContainerRuntime,
  initPid: number,
  plug: NetworkPlug,
  signal: AbortSignal,
): Promise<void> {
  const looks = new Map<string, number>();
  for (let tries = 1; ; tries += 1) {
    await runtime.cgroup.freeze(signal);
    const arriving = plug.waitingConnections() > 0;
    const { vfork, ending, exitCodes } = await settled(initPid, signal);
    for (const pid of exitCodes) looks.set(pid, (looks.get(pid) ?? 0) + 1);
    const fresh = exitCodes.some((pid) => (looks.get(pid) ?? 0) < EXIT_CODE_LOOKS);
    if (!arriving && !vfork && !ending && !fresh) return;
    if (tries >= TRIES) {
      if (vfork)
        throw new GodwitError(
          "refused",
          "a process waits in vfork for its child to begin a program, again and again; try again when it starts fewer programs",
        );
      return; // the rest is CRIU's to refuse
    }
    if (arriving) plug.unplug();
    runtime.cgroup.thaw();
    if (vfork) await programBegun(initPid, signal);
    else await delay(PATIENCE_MS, undefined, { signal });
  }
}

/** How long a process may take to end: it does so while the others stand still. */
const ENDING_MS = 50;

/** As soon as nothing is in the middle of its end any more. */
async function settled(initPid: number, signal: AbortSignal): Promise<Unsettled> {
  const deadlineMs = performance.now() + ENDING_MS;
  for (;;) {
    const unsettled = findUnsettled(initPid);
    if (!unsettled.ending || performance.now() > deadlineMs) return unsettled;
    await delay(1, undefined, { signal });
  }
}

/** How long a child may take to begin its program, on a busy host, before the next look. */
const PROGRAM_MS = 100;

/** The moment between two of a process's vforks may be short: it is caught while the container runs. */
async function programBegun(initPid: number, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + PROGRAM_MS;
  do await delay(1, undefined, { signal });
  while (findUnsettled(initPid).vfork && performance.now() < deadlineMs);
}
