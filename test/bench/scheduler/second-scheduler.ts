/** A scheduler in a process of its own, for the benchmark: what it has to say comes as messages. */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import type { Stalls } from "./figures.ts";

const PROGRAM = fileURLToPath(new URL("second-program.ts", import.meta.url));

interface Said {
  readonly loaded: { readonly kind: "loaded"; readonly loadMs: number };
  readonly leading: { readonly kind: "leading" };
  readonly measured: { readonly kind: "measured" } & Stalls;
}
export type Message = Said[keyof Said];

export class SecondScheduler implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #said: { readonly [K in keyof Said]: PromiseWithResolvers<Said[K]> } = {
    loaded: Promise.withResolvers(),
    leading: Promise.withResolvers(),
    measured: Promise.withResolvers(),
  };

  /** @param sequence the log's last: with it, all is in memory */
  constructor(url: string, id: string, sequence: number) {
    this.#child = fork(PROGRAM, [url, id, String(sequence)], {
      execArgv: ["--max-old-space-size=16384"],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    for (const { promise } of Object.values(this.#said)) promise.catch(() => undefined);
    this.#child.on("message", (message: Message) => {
      if (message.kind === "loaded") this.#said.loaded.resolve(message);
      else if (message.kind === "leading") this.#said.leading.resolve(message);
      else this.#said.measured.resolve(message);
    });
    this.#child.on("exit", (code, signal) => {
      for (const { reject } of Object.values(this.#said))
        reject(new Error(`the second scheduler has ended: ${signal ?? code}`));
    });
  }

  said<K extends keyof Said>(kind: K): Promise<Said[K]> {
    return this.#said[kind].promise;
  }
  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.kill();
    await ended;
  }
}
