import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { GodwitError } from "../../proto/contract/error.ts";
import { isAlive, processStat, signalExactly } from "../native/process.ts";
import { openStreamPair } from "../native/sockets.ts";
import { pageServerHeader } from "./page-server.ts";

const SOCKET = "lazy-pages.socket";
/** Beside the image from the daemon's start until the page server has heard from it that everything is in place. */
const UNFINISHED = "filling";
const READY_DEADLINE_MS = 10_000;
const SOCKET_BUFFER_BYTES = 4 * 1024 * 1024;
const PAGE_SERVER = fileURLToPath(new URL("../page-server/main.ts", import.meta.url));

/**
 * Fills a restored container's memory on demand, and in the background, from an image that is complete on this host:
 * CRIU's lazy-pages daemon, and a page server that it asks. Both end by themselves when everything is in place, and
 * outlive the agent.
 */
export class LazyPages implements Disposable {
  readonly #criuPath: string;
  readonly #imagesDir: string;
  readonly #server: ChildProcess;
  readonly #daemonSocket: number;
  #started = false;

  /** Starts the page server, which takes longer than the daemon: before the image is here. */
  constructor(criuPath: string, criuVersion: string, imagesDir: string) {
    this.#criuPath = criuPath;
    this.#imagesDir = imagesDir;
    const [daemonSocket, serverSocket] = openStreamPair(SOCKET_BUFFER_BYTES);
    this.#daemonSocket = daemonSocket;
    try {
      this.#server = spawn(
        process.execPath,
        [PAGE_SERVER, imagesDir, String(pageServerHeader(criuVersion).bytes)],
        { stdio: ["ignore", "ignore", "inherit", serverSocket], detached: true, cwd: "/" },
      );
      this.#server.once("error", () => undefined); // the daemon then finds nobody
      this.#server.unref();
    } finally {
      closeSync(serverSocket);
    }
  }

  /** @param pidFile where the daemon is found again after a restart of the agent */
  async start(pidFile: string): Promise<void> {
    this.#started = true;
    writeFileSync(`${this.#imagesDir}/${UNFINISHED}`, "", { mode: 0o600 });
    const child = spawn(
      this.#criuPath,
      [
        ...["lazy-pages", "--images-dir", this.#imagesDir, "--work-dir", this.#imagesDir],
        ...["--page-server", "--ps-socket", "3", "-o", "lazy-pages.log", "-v1"],
      ],
      { stdio: ["ignore", "ignore", "ignore", this.#daemonSocket], detached: true, cwd: "/" },
    );
    const ended = new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", resolve);
    });
    let over = false;
    void ended.then(
      () => (over = true),
      () => (over = true),
    );
    const deadlineMs = performance.now() + READY_DEADLINE_MS;
    while (statSync(`${this.#imagesDir}/${SOCKET}`, { throwIfNoEntry: false }) === undefined) {
      if (over) throw new GodwitError("internal", "CRIU's lazy-pages daemon ended before it was ready");
      if (performance.now() > deadlineMs)
        throw new GodwitError("deadline", "CRIU's lazy-pages daemon is not ready after 10 s");
      await delay(1);
    }
    const pid = child.pid ?? 0;
    const startTicks = processStat(pid)?.startTicks ?? 0;
    writeFileSync(pidFile, JSON.stringify({ pid, startTicks }), { mode: 0o600 });
    child.unref();
  }

  /** Ends the page server if it was never needed. */
  [Symbol.dispose](): void {
    closeSync(this.#daemonSocket);
    if (!this.#started) this.#server.kill("SIGKILL");
  }
}

interface RecordedDaemon {
  readonly pid: number;
  readonly startTicks: number;
}

/** The daemon that fills the container's memory, while it does. */
export function daemonOf(pidFile: string): RecordedDaemon | undefined {
  let text: string;
  try {
    text = readFileSync(pidFile, "utf8");
  } catch {
    return undefined;
  }
  const daemon = JSON.parse(text) as RecordedDaemon;
  if (isAlive(daemon.pid, daemon.startTicks)) return daemon;
  rmSync(pidFile, { force: true });
  return undefined;
}

/** Resolves when the container's memory is all in place: only then can it be dumped again. */
export async function filled(pidFile: string, signal: AbortSignal): Promise<void> {
  while (daemonOf(pidFile) !== undefined) await delay(20, undefined, { signal });
}

/** Whether the daemon has ended before its work was done. */
export function isUnfinished(imagesDir: string): boolean {
  return statSync(`${imagesDir}/${UNFINISHED}`, { throwIfNoEntry: false }) !== undefined;
}

/** The container is restored anew and filled at once: what a daemon had begun counts no more. */
export function forgetFilling(imagesDir: string): void {
  rmSync(`${imagesDir}/${UNFINISHED}`, { force: true });
}

/** Ends a daemon whose container is gone. */
export function endFilling(pidFile: string): void {
  const daemon = daemonOf(pidFile);
  if (daemon !== undefined) signalExactly(daemon.pid, daemon.startTicks, "SIGKILL");
  rmSync(pidFile, { force: true });
}
