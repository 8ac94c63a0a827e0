import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";

import { isAlive, processStat, signalExactly } from "../native/process.ts";

/** A heap for each thread would keep what is let go of in each: glibc's own limit is eight for each core. */
const ALLOCATION = { MALLOC_ARENA_MAX: "2" };
/** libuv's pool: what reads files and waits for sockets, and what compresses beside that (native/zstd-threads.ts). */
const THREADS = { UV_THREADPOOL_SIZE: "8" };
const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 10_000;
/** An agent that lived this long was well: the next back-off is the first again. */
const WELL_MS = 30_000;
const STOP_GRACE_MS = 10_000;
const ADOPTED_POLL_MS = 500;

export interface AgentCommand {
  readonly program: string;
  readonly args: readonly string[];
  /** File that names the running agent, for a shim that comes after this one. */
  readonly recordPath: string;
  readonly onLog: (message: string) => void;
}

/** Keeps one agent running: starts it again, after a growing pause, whenever it ends. */
export class AgentChild {
  readonly #command: AgentCommand;
  readonly #pids: Set<number>;
  #child: ChildProcess | undefined;
  #adopted: { pid: number; startTicks: number } | undefined;
  #backoffMs = FIRST_BACKOFF_MS;
  #timer: NodeJS.Timeout | undefined;
  #stopping = false;

  /** @param pids is told the pid of every child that libuv will reap */
  constructor(command: AgentCommand, pids: Set<number>) {
    this.#command = command;
    this.#pids = pids;
  }

  /** An agent that a killed shim has left behind goes on; only when it ends is a new one started. */
  start(): void {
    const left = this.#readRecord();
    if (left !== undefined && isAlive(left.pid, left.startTicks)) {
      this.#command.onLog(`agent ${left.pid} is running already`);
      this.#adopted = left;
      this.#watchAdopted();
    } else this.#spawn();
  }

  /** SIGTERM, and SIGKILL when that has not ended it in ten seconds. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      const kill = setTimeout(() => child.kill("SIGKILL"), STOP_GRACE_MS);
      await ended;
      clearTimeout(kill);
    }
    const adopted = this.#adopted;
    if (adopted !== undefined) {
      signalExactly(adopted.pid, adopted.startTicks, "SIGTERM");
      const killAtMs = Date.now() + STOP_GRACE_MS;
      while (isAlive(adopted.pid, adopted.startTicks)) {
        if (Date.now() > killAtMs) signalExactly(adopted.pid, adopted.startTicks, "SIGKILL");
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    rmSync(this.#command.recordPath, { force: true });
  }

  #spawn(): void {
    const { program, args, onLog } = this.#command;
    const startedAtMs = Date.now();
    const child = spawn(program, args, {
      stdio: ["ignore", "inherit", "inherit"],
      env: { ...ALLOCATION, ...THREADS, ...process.env },
    });
    this.#child = child;
    const { pid } = child;
    if (pid !== undefined) {
      this.#pids.add(pid);
      this.#writeRecord(pid);
    }
    let ended = false;
    const end = (how: string): void => {
      if (ended) return;
      ended = true;
      if (pid !== undefined) this.#pids.delete(pid);
      if (this.#stopping) return;
      if (Date.now() - startedAtMs >= WELL_MS) this.#backoffMs = FIRST_BACKOFF_MS;
      onLog(`agent ${pid ?? "?"} ${how}; starting it again in ${this.#backoffMs} ms`);
      this.#later();
    };
    child.once("exit", (code, signal) =>
      end(signal === null ? `exited with ${code ?? "?"}` : `was ended by ${signal}`),
    );
    child.once("error", (error) => end(`could not be started: ${error.message}`));
  }

  #later(): void {
    this.#timer = setTimeout(() => this.#spawn(), this.#backoffMs);
    this.#backoffMs = Math.min(this.#backoffMs * 2, LONGEST_BACKOFF_MS);
  }

  #watchAdopted(): void {
    this.#timer = setTimeout(() => {
      if (this.#adopted !== undefined && isAlive(this.#adopted.pid, this.#adopted.startTicks)) {
        this.#watchAdopted();
        return;
      }
      this.#adopted = undefined;
      this.#spawn();
    }, ADOPTED_POLL_MS);
  }

  #writeRecord(pid: number): void {
    const { recordPath } = this.#command;
    const startTicks = processStat(pid)?.startTicks ?? 0;
    writeFileSync(`${recordPath}.new`, JSON.stringify({ pid, startTicks }), { mode: 0o600 });
    renameSync(`${recordPath}.new`, recordPath);
  }

  #readRecord(): { pid: number; startTicks: number } | undefined {
    try {
      const value = JSON.parse(readFileSync(this.#command.recordPath, "utf8")) as Record<string, unknown>;
      const { pid, startTicks } = value;
      return typeof pid === "number" && typeof startTicks === "number" ? { pid, startTicks } : undefined;
    } catch {
      return undefined; // none, or torn by a power loss: then that agent is gone as well
    }
  }
}
