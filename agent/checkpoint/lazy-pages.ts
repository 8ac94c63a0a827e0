import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { GodwitError } from "../../proto/contract/error.ts";
import { ROUND_ENDED } from "../filler/index-files.ts";
import { isAlive, processStat, signalExactly } from "../native/process.ts";
import { openPacketPair, receivePacket, sendPacket, shutdownSocket } from "../native/sockets.ts";

/** Beside the image from the filler's start until everything is in place. */
const UNFINISHED = "filling";
const READY_DEADLINE_MS = 30_000;
const FILLER = fileURLToPath(new URL("../filler/main.ts", import.meta.url));

/**
 * Fills a restored container's memory on demand, and in the background, from an image that is complete on this host: a
 * process that ends by itself when everything is in place, and outlives the agent.
 */
export class LazyPages implements Disposable {
  readonly #imagesDir: string;
  #filler: Filler | undefined;
  #started = false;
  #closed = false;
  #isTold = true;

  constructor(imagesDir: string) {
    this.#imagesDir = imagesDir;
  }

  /** Starts it, unless it has been: in time before the image is whole, for it takes longer than a container may stand. */
  begin(): Filler {
    this.#filler ??= spawnFiller(this.#imagesDir);
    return this.#filler;
  }

  /** A round has ended, and its index is there: lets the filler, if it was begun, take it in. */
  roundEnded(): void {
    if (this.#filler === undefined || !this.#isTold) return;
    const { ready, socket } = this.#filler;
    this.#isTold = false;
    const tell = (): void => {
      this.#isTold = true;
      if (!this.#started && !this.#closed) sendPacket(socket, Uint8Array.of(ROUND_ENDED));
    };
    ready.then(tell).catch(() => undefined); // start tells of a filler that is not there
  }

  /**
   * The image is whole: CRIU may come.
   * @param pidFile where the filler is found again after a restart of the agent
   */
  async start(pidFile: string): Promise<void> {
    const { child, socket, ready } = this.begin();
    const timer = setTimeout(() => shutdownSocket(socket), READY_DEADLINE_MS);
    const answer = Buffer.from(await ready);
    clearTimeout(timer);
    if (answer.byteLength !== 4)
      throw new GodwitError("internal", "what fills a container's memory ended before it was ready");
    const processes = [child.pid ?? 0, answer.readInt32LE()].map((pid) => ({
      pid,
      startTicks: processStat(pid)?.startTicks ?? 0,
    }));
    writeFileSync(`${this.#imagesDir}/${UNFINISHED}`, "", { mode: 0o600 });
    writeFileSync(pidFile, JSON.stringify(processes), { mode: 0o600 });
    this.#started = true;
    sendPacket(socket, Uint8Array.of(1));
  }

  /** Ends the filler if it was never needed. */
  [Symbol.dispose](): void {
    if (this.#filler === undefined) return;
    const { socket, ready } = this.#filler;
    this.#closed = true;
    // It ends by itself when nobody is at the other end any more.
    if (!this.#started) shutdownSocket(socket);
    void ready.finally(() => closeSync(socket)).catch(() => undefined);
  }
}

interface Filler {
  readonly child: ChildProcess;
  readonly socket: number;
  readonly ready: Promise<Uint8Array>;
}

function spawnFiller(imagesDir: string): Filler {
  const [socket, theirs] = openPacketPair();
  try {
    const child = spawn(process.execPath, [FILLER, imagesDir], {
      stdio: ["ignore", "ignore", "inherit", theirs],
      detached: true,
      cwd: "/",
    });
    child.once("error", () => undefined); // it is then never ready
    child.unref();
    const ready = receivePacket(socket, 4);
    ready.catch(() => undefined); // awaited by start
    return { child, socket, ready };
  } finally {
    closeSync(theirs);
  }
}

interface RecordedProcess {
  readonly pid: number;
  readonly startTicks: number;
}

/** The filler and the process that keeps its descriptors open if it dies; none where nothing was ever filled. */
function recorded(pidFile: string): RecordedProcess[] {
  try {
    return JSON.parse(readFileSync(pidFile, "utf8")) as RecordedProcess[];
  } catch {
    return [];
  }
}

/** Resolves when nothing is at work any more at the container's memory: only then can it be dumped again. */
export async function filled(pidFile: string, signal: AbortSignal): Promise<void> {
  const [filler] = recorded(pidFile);
  if (filler === undefined) return;
  while (isAlive(filler.pid, filler.startTicks)) await delay(20, undefined, { signal });
}

/** Whether the filler has ended before its work was done. */
export function isUnfinished(imagesDir: string): boolean {
  return statSync(`${imagesDir}/${UNFINISHED}`, { throwIfNoEntry: false }) !== undefined;
}

/** The container is restored anew and filled at once: what a filler had begun counts no more. */
export function forgetFilling(imagesDir: string): void {
  rmSync(`${imagesDir}/${UNFINISHED}`, { force: true });
}

/** Ends what fills a container that is gone, or is filled. */
export function endFilling(pidFile: string): void {
  for (const { pid, startTicks } of recorded(pidFile)) signalExactly(pid, startTicks, "SIGKILL");
  rmSync(pidFile, { force: true });
}
