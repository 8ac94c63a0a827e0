import { type ChildProcess, spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { mkdir, readFile, rename, rmdir, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { ReadStream } from "node:tty";

import type { Logger } from "pino";

import { openTerminal, type TerminalPair } from "../native/pty.ts";
import { type ExecInput, NO_INPUT, PipeInput, TerminalInput } from "./exec-input.ts";
import { describeFailure, EXIT_KILLED, type ExecOutcome } from "./outcome.ts";
import { describeLeader, killUnixSession, type SessionLeader } from "./unix-session.ts";

/** The files of one exec, in a folder of its own. */
export const PROCESS_FILE = "process.json";
const PID_FILE = "pid";
export const LEADER_FILE = "leader.json";
const LOG_FILE = "runc.log";

/** The part of an OCI process that exec sets; capabilities and rlimits that are absent are the container's. */
export interface OciProcess {
  readonly terminal: boolean;
  /** The size that the terminal has from the start: runc copies that of ours a little after it. */
  readonly consoleSize?: { readonly height: number; readonly width: number };
  readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly noNewPrivileges: true;
}

export interface ExecCommand {
  readonly containerId: string;
  readonly process: OciProcess;
  readonly stdin: boolean;
  /** Made by `start`, removed by `dispose`. */
  readonly folder: string;
  readonly runcPath: string;
  readonly runcArguments: readonly string[];
  readonly logger: Logger;
}

export interface ExecOutput {
  readonly kind: "stdout" | "stderr";
  readonly stream: Readable;
}

const START_DEADLINE_MS = 20_000;
/** A process that left the session may hold the pipes that runc copies from: runc is not waited for longer. */
const RUNC_LINGER_MS = 500;

/**
 * One `runc exec` in the foreground. It gives the process pipes or a terminal of the container's own, copies
 * between those and ours, and ends with the process's exit code. (A console socket would spare the copying, but
 * runc takes one only when it detaches, and the exit code is lost then.)
 */
export class RuncExec implements AsyncDisposable {
  readonly input: ExecInput;
  readonly outputs: readonly ExecOutput[];
  /** When runc has ended. */
  readonly exited: Promise<ExecOutcome>;
  readonly #command: ExecCommand;
  readonly #child: ChildProcess;
  readonly #terminal: TerminalInput | undefined;
  readonly #leader: Promise<SessionLeader | undefined>;
  #ended = false;
  #killed = false;
  #tooSlow = false;

  static async start(command: ExecCommand): Promise<RuncExec> {
    await mkdir(command.folder, { mode: 0o700 });
    try {
      await writeFile(join(command.folder, PROCESS_FILE), JSON.stringify(command.process), { mode: 0o600 });
      return new RuncExec(command);
    } catch (error) {
      await removeExecFolder(command.folder);
      throw error;
    }
  }

  private constructor(command: ExecCommand) {
    this.#command = command;
    const pair = command.process.terminal ? terminalOf(command.process) : undefined;
    try {
      this.#child = spawnRunc(command, pair);
    } catch (error) {
      if (pair !== undefined) closeSync(pair.master);
      throw error;
    } finally {
      if (pair !== undefined) closeSync(pair.slave);
    }
    if (pair === undefined) {
      this.input = this.#child.stdin === null ? NO_INPUT : new PipeInput(this.#child.stdin);
      this.outputs = [
        { kind: "stdout", stream: this.#child.stdout as Readable },
        { kind: "stderr", stream: this.#child.stderr as Readable },
      ];
    } else {
      this.#terminal = new TerminalInput(pair.master);
      this.input = command.stdin ? this.#terminal : NO_INPUT;
      this.outputs = [{ kind: "stdout", stream: new ReadStream(pair.master) }];
    }
    // Told to who reads; without a listener it would end the agent (a terminal's hang-up is an error, EIO).
    for (const { stream } of this.outputs) stream.on("error", () => undefined);
    const exit = new Promise<{ code: number | null; failure?: Error }>((resolve) => {
      this.#child.once("error", (failure) => resolve({ code: null, failure }));
      this.#child.once("exit", (code) => resolve({ code }));
    });
    const ended = exit.then(() => {
      this.#ended = true;
    });
    this.#leader = this.#awaitLeader(ended);
    this.#leader.catch(() => undefined); // `kill` and `exited` tell
    this.exited = exit.then(async ({ code, failure }) => this.#outcome(code, failure));
  }

  resize(rows: number, columns: number): void {
    this.#terminal?.resize(rows, columns);
    // The terminal is not runc's controlling one, so the kernel does not tell it.
    if (this.#terminal !== undefined && !this.#ended) this.#child.kill("SIGWINCH");
  }

  /**
   * Ends what was started, and resolves when nothing of it is left in the container: false when something is
   * left after `withinMs`, which has been told to die and does so when it is thawed.
   */
  async kill(withinMs: number): Promise<boolean> {
    this.#killed = true;
    const patience = delay(withinMs, "late" as const, { ref: false });
    const leader = await Promise.race([this.#leader, patience]);
    if (leader === "late") {
      this.#child.kill("SIGKILL");
      return this.#endedWithin(RUNC_LINGER_MS);
    }
    const gone = leader === undefined || (await killUnixSession(leader, withinMs));
    if (!gone) return false;
    if (await this.#endedWithin(RUNC_LINGER_MS)) return true;
    this.#child.kill("SIGKILL");
    return this.#endedWithin(withinMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#terminal?.close();
    this.input.close();
    for (const { stream } of this.outputs) stream.destroy();
    await removeExecFolder(this.#command.folder);
  }

  async #endedWithin(ms: number): Promise<boolean> {
    const abort = new AbortController();
    await Promise.race([this.exited, delay(ms, undefined, { signal: abort.signal }).catch(() => undefined)]);
    abort.abort();
    return this.#ended;
  }

  /** The first process, once it runs; undefined when it never did or is gone again already. */
  async #awaitLeader(ended: Promise<void>): Promise<SessionLeader | undefined> {
    const deadline = performance.now() + START_DEADLINE_MS;
    for (let waitMs = 5; ; waitMs = Math.min(waitMs * 2, 50)) {
      const endedBefore = this.#ended;
      const pid = await readPid(this.#command.folder);
      if (pid !== undefined) {
        const leader = await describeLeader(pid);
        if (leader !== undefined) await this.#noteLeader(leader);
        // A resize while runc was not listening yet.
        if (this.#terminal !== undefined && !this.#ended) this.#child.kill("SIGWINCH");
        return leader;
      }
      if (endedBefore) return undefined;
      if (performance.now() > deadline) {
        this.#tooSlow = true;
        this.#child.kill("SIGKILL");
        return undefined;
      }
      await Promise.race([ended, delay(waitMs)]);
    }
  }

  /** For the agent's next start, should this one be killed. */
  async #noteLeader(leader: SessionLeader): Promise<void> {
    const path = join(this.#command.folder, LEADER_FILE);
    try {
      await writeFile(`${path}.new`, JSON.stringify(leader), { mode: 0o600 });
      await rename(`${path}.new`, path);
    } catch (error) {
      this.#command.logger.warn(
        { err: error, path },
        "an exec that outlives the agent could not be found again",
      );
    }
  }

  async #outcome(code: number | null, failure: Error | undefined): Promise<ExecOutcome> {
    await this.#leader;
    if (failure !== undefined) {
      return {
        code: 125,
        error: `runc cannot be started (${failure.message}): is ${this.#command.runcPath} there?`,
      };
    }
    if (this.#tooSlow) {
      return { code: 125, error: `the command did not start within ${START_DEADLINE_MS / 1000} s` };
    }
    if ((await readPid(this.#command.folder)) !== undefined) return { code: code ?? EXIT_KILLED, error: "" };
    if (this.#killed) return { code: EXIT_KILLED, error: "" };
    return describeFailure(await readText(join(this.#command.folder, LOG_FILE)), code);
  }
}

function terminalOf({ consoleSize }: OciProcess): TerminalPair {
  return openTerminal(consoleSize?.height ?? 24, consoleSize?.width ?? 80);
}

function spawnRunc(command: ExecCommand, pair: TerminalPair | undefined): ChildProcess {
  const { folder } = command;
  return spawn(
    command.runcPath,
    [
      ...command.runcArguments,
      // Its complaints apart from what the process writes.
      "--log",
      join(folder, LOG_FILE),
      "--log-format",
      "json",
      "exec",
      "--process",
      join(folder, PROCESS_FILE),
      "--pid-file",
      join(folder, PID_FILE),
      command.containerId,
    ],
    {
      stdio:
        pair === undefined
          ? [command.stdin ? "pipe" : "ignore", "pipe", "pipe"]
          : [pair.slave, pair.slave, pair.slave],
      cwd: "/",
      // In a session of its own: a signal to the agent's group (Ctrl-C) is not for the processes in containers.
      detached: true,
    },
  );
}

export async function readPid(folder: string): Promise<number | undefined> {
  const pid = Number(await readText(join(folder, PID_FILE)));
  return pid > 0 ? pid : undefined;
}

export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

/** File by file, so that nothing but an exec's own folder can ever be removed. */
export async function removeExecFolder(folder: string): Promise<void> {
  for (const name of [PROCESS_FILE, PID_FILE, LEADER_FILE, `${LEADER_FILE}.new`, LOG_FILE, `.${PID_FILE}`]) {
    await unlink(join(folder, name)).catch(ignoreMissing);
  }
  await rmdir(folder).catch(ignoreMissing);
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}
