import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { GodwitError } from "../../proto/contract/error.ts";
import { takeDescriptor } from "../native/descriptors.ts";

const PROGRAM = fileURLToPath(new URL("main.ts", import.meta.url));
const ANSWER_DEADLINE_MS = 10_000;

export type TracerAnswer = { readonly pid: number } & (
  { readonly descriptor: number } | { readonly error: string }
);

/** The process that makes userfaultfds inside others (main.ts), and what it has been asked. */
export class Tracer implements Disposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: TracerAnswer) => void>();
  #ended = false;

  constructor() {
    this.#child = spawn(process.execPath, [PROGRAM], {
      stdio: ["pipe", "pipe", "inherit"],
      cwd: "/",
      // Ctrl-C in a terminal is for the agent alone.
      detached: true,
    });
    const end = (): void => {
      this.#ended = true;
      for (const [pid, answer] of this.#waiting) answer({ pid, error: "the tracer has ended" });
    };
    this.#child.once("error", end);
    this.#child.once("exit", end);
    this.#child.stdin?.on("error", () => undefined); // "exit" tells
    if (this.#child.stdout !== null) {
      createInterface({ input: this.#child.stdout }).on("line", (line) => {
        const answer = JSON.parse(line) as TracerAnswer;
        this.#waiting.get(answer.pid)?.(answer);
      });
    }
  }

  /**
   * A userfaultfd of this process's memory, for the caller to close.
   * @throws GodwitError with the reason why there is none
   */
  async userfaultfdOf(pid: number): Promise<number> {
    if (this.#ended) throw new GodwitError("unavailable", "the tracer has ended");
    let patience: NodeJS.Timeout | undefined;
    const answer = await new Promise<TracerAnswer>((resolve) => {
      this.#waiting.set(pid, resolve);
      patience = setTimeout(() => resolve({ pid, error: "the tracer does not answer" }), ANSWER_DEADLINE_MS);
      this.#child.stdin?.write(`${pid}\n`);
    });
    clearTimeout(patience);
    this.#waiting.delete(pid);
    if ("error" in answer) throw new GodwitError("unavailable", answer.error);
    return takeDescriptor(this.#child.pid ?? 0, answer.descriptor);
  }

  /** Its copies of the descriptors go with it. */
  [Symbol.dispose](): void {
    this.#child.stdin?.end();
  }
}
