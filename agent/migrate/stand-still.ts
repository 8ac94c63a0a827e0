import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { arrivingConnections } from "../checkpoint/arriving.ts";
import { findUnsettled } from "../checkpoint/forking.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { NetworkPlug } from "../network/plug.ts";

const TRIES = 40;
const PATIENCE_MS = 15;
/** An exit code that nobody has asked for after so many looks nobody will miss. */
const EXIT_CODE_LOOKS = 5;

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
  if (arrivingConnections(initPid).busy) plug.unplug();
  const looks = new Map<string, number>();
  for (let tries = 1; ; tries += 1) {
    await runtime.cgroup.freeze(signal);
    const arriving = arrivingConnections(initPid).waiting > 0;
    const { vfork, exitCodes } = findUnsettled(initPid);
    for (const pid of exitCodes) looks.set(pid, (looks.get(pid) ?? 0) + 1);
    const fresh = exitCodes.some((pid) => (looks.get(pid) ?? 0) < EXIT_CODE_LOOKS);
    if (!arriving && !vfork && !fresh) return;
    if (tries >= TRIES) {
      if (vfork)
        throw new GodwitError(
          "refused",
          "a process waits in vfork for its child to begin a program, again and again; try again when it starts fewer programs",
        );
      return; // connections are CRIU's to refuse
    }
    if (arriving) plug.unplug();
    runtime.cgroup.thaw();
    await delay(PATIENCE_MS, undefined, { signal });
  }
}
