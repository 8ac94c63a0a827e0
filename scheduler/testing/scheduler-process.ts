/** The other end of scheduler-program.ts. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { GodwitError, isErrorCode } from "../../proto/contract/error.ts";

export interface ProgramOptions {
  readonly id: string;
  readonly urls: readonly string[];
  readonly replicas: number;
  readonly leaderLeaseMs: number;
  readonly snapshotEvery: number;
}

export type Question =
  | { readonly kind: "status" | "confirm" }
  | { readonly kind: "create"; readonly name: string }
  | { readonly kind: "restart"; readonly container: string; readonly request: string };

export interface Answer {
  readonly number: number;
  readonly code?: string;
  readonly message?: string;
  readonly epoch?: number;
  readonly leading?: boolean;
  readonly sequence?: number;
  readonly hash?: string;
  /** Those that have all of the log, as the leader knows. */
  readonly servers?: number;
  readonly container?: string;
  readonly generation?: number;
}

const PROGRAM = fileURLToPath(new URL("scheduler-program.ts", import.meta.url));

export class SchedulerProcess implements AsyncDisposable {
  readonly id: string;
  readonly #options: ProgramOptions;
  #child: ChildProcess | undefined;
  readonly #waiting = new Map<number, PromiseWithResolvers<Answer>>();
  #number = 0;

  private constructor(options: ProgramOptions) {
    this.id = options.id;
    this.#options = options;
  }
  static async start(options: ProgramOptions): Promise<SchedulerProcess> {
    const process = new SchedulerProcess(options);
    await process.launch();
    return process;
  }

  /** Leads or stands by when it returns. */
  async launch(): Promise<void> {
    const child = spawn(process.execPath, [PROGRAM, JSON.stringify(this.#options)], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#child = child;
    child.stdin.on("error", () => undefined); // it was killed: its answers do not come, which is what is looked at
    const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
    createInterface(child.stdout).on("line", (line) => {
      const message = JSON.parse(line) as Answer | { ready: true };
      if ("ready" in message) resolve();
      else this.#settle(message);
    });
    child.once("exit", () => {
      reject(new Error(`${this.id} ended before it was ready`));
      const gone = new GodwitError("unavailable", `${this.id} has ended`);
      for (const waiter of this.#waiting.values()) waiter.reject(gone);
      this.#waiting.clear();
    });
    await ready;
  }

  /** Rejects as the scheduler does, and with `unavailable` when it ends or does not answer in time. */
  async ask(question: Question, withinMs = 20_000): Promise<Answer> {
    const number = (this.#number += 1);
    if (this.#child === undefined) throw new GodwitError("unavailable", `${this.id} does not run`);
    const waiter = Promise.withResolvers<Answer>();
    this.#waiting.set(number, waiter);
    this.#child.stdin?.write(`${JSON.stringify({ number, question })}\n`);
    const timer = setTimeout(
      () => waiter.reject(new GodwitError("unavailable", `${this.id} does not answer`)),
      withinMs,
    );
    try {
      return await waiter.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(number);
    }
  }

  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    this.#child?.kill(signal);
  }
  async end(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill(signal);
    await exited;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  #settle(answer: Answer): void {
    const waiter = this.#waiting.get(answer.number);
    if (answer.code === undefined) waiter?.resolve(answer);
    else
      waiter?.reject(
        new GodwitError(isErrorCode(answer.code) ? answer.code : "internal", answer.message ?? ""),
      );
  }
}
