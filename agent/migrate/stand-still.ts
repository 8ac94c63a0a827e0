import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { findUnsettled, type Unsettled } from "../checkpoint/forking.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { NetworkPlug } from "../network/plug.ts";
import type { Stragglers } from "../network/stragglers.ts";

const TRIES = 40;
const PATIENCE_MS = 15;
/** For a process that was about to read; longer from look to look, as it may have to wait for a core. */
const READ_MS = 1;
/** Datagrams that are the same after so many looks nobody reads. */
const DATAGRAM_LOOKS = 4;
/** Where there are always some, the container is not to be held up for them. */
const MOST_DATAGRAM_LOOKS = 10;
/** An exit code that nobody has asked for after so many looks nobody will miss. */
const EXIT_CODE_LOOKS = 20;

/**
 * Freezes the container at a moment at which CRIU can dump it: not while a connection waits to be accepted, not between
 * a vfork and its exec, and not while an exit code or a datagram would be lost. All of that passes by itself when the
 * processes go on a little. Where new connections keep coming they are held off meanwhile, and reach the target.
 */
export async function freezeAtRest(
  runtime: ContainerRuntime,
  initPid: number,
  { plug, stragglers }: { readonly plug: NetworkPlug; readonly stragglers: Stragglers },
  signal: AbortSignal,
): Promise<void> {
  const looks = new Map<string, number>();
  const isFresh = (pid: string): boolean => (looks.get(pid) ?? 0) < EXIT_CODE_LOOKS;
  const datagrams = new UnreadDatagrams(plug);
  for (let tries = 1; ; tries += 1) {
    await runtime.cgroup.freeze(signal);
    // Only then is it looked what is unread: what comes from here on is not lost.
    stragglers.standsStill();
    const unread = datagrams.areWorthAwaiting();
    const arriving = plug.waitingConnections() > 0;
    const { vfork, ending, exitCodes } = await settled(initPid, signal);
    for (const pid of exitCodes) looks.set(pid, (looks.get(pid) ?? 0) + 1);
    const fresh = exitCodes.some(isFresh);
    if (!arriving && !vfork && !ending && !fresh && !unread) return;
    if (tries >= TRIES) {
      if (vfork)
        throw new GodwitError(
          "refused",
          "a process waits in vfork for its child to begin a program, again and again; try again when it starts fewer programs",
        );
      return; // the rest is CRIU's to refuse
    }
    if (arriving) unplug({ plug, stragglers });
    stragglers.goesOn();
    runtime.cgroup.thaw();
    if (vfork) await until(({ vfork }) => !vfork, PROGRAM_MS, initPid, signal);
    else if (fresh)
      await until(({ exitCodes }) => exitCodes.every((pid) => !isFresh(pid)), PATIENCE_MS, initPid, signal);
    else await delay(arriving || ending ? PATIENCE_MS : datagrams.readMs, undefined, { signal });
  }
}

/** Those that are in the container's sockets, from which CRIU takes none. */
class UnreadDatagrams {
  readonly #plug: NetworkPlug;
  #lastBytes = 0;
  #looks = 0;
  #allLooks = 0;

  constructor(plug: NetworkPlug) {
    this.#plug = plug;
  }

  get readMs(): number {
    return READ_MS * 2 ** (this.#looks - 1);
  }

  areWorthAwaiting(): boolean {
    const bytes = this.#plug.unreadDatagramBytes();
    this.#looks = bytes === this.#lastBytes ? this.#looks + 1 : 1;
    this.#lastBytes = bytes;
    this.#allLooks += 1;
    return bytes > 0 && this.#looks < DATAGRAM_LOOKS && this.#allLooks < MOST_DATAGRAM_LOOKS;
  }
}

/** Takes the container off the network; what comes for it is kept to be sent after it. */
export function unplug({
  plug,
  stragglers,
}: {
  readonly plug: NetworkPlug;
  readonly stragglers: Stragglers;
}): void {
  // In this order, as in NetworkPlug.plugIn: rather twice than not at all.
  stragglers.hearTunnel();
  plug.unplug();
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

/** The moment between two vforks, or two ends, of a process may be short: it is caught while the container runs. */
async function until(
  isSo: (unsettled: Unsettled) => boolean,
  patienceMs: number,
  initPid: number,
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = performance.now() + patienceMs;
  do await delay(1, undefined, { signal });
  while (!isSo(findUnsettled(initPid)) && performance.now() < deadlineMs);
}
