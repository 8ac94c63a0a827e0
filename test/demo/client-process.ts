import { spawn, type ChildProcess } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";

import type { Window } from "./redis-client.ts";

/** What waits for a server that will never answer again is told so. */
const ANSWER_MS = 300_000;

/** A load generator in a process of its own, as seen from the one that gives it its commands. */
export class LoadClient implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  /** @param argv program and arguments that run the client where it is to run */
  constructor(argv: readonly string[]) {
    const [program = "", ...args] = argv;
    this.#child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    if (this.#child.stdout === null) throw new Error("no pipe to the client");
    this.#reader = createInterface({ input: this.#child.stdout });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  protected async ask(command: string): Promise<unknown> {
    this.#child.stdin?.write(`${command}\n`);
    const patience = new AbortController();
    const line = await Promise.race([
      this.#lines.next(),
      delay(ANSWER_MS, undefined, { signal: patience.signal }).then(() => {
        throw new Error(`the load generator has not answered '${command}' for ${ANSWER_MS / 1000} s`);
      }),
    ]).finally(() => patience.abort());
    if (line.done === true) throw new Error(`the load generator died at '${command}'`);
    const answer = JSON.parse(line.value) as { error?: string };
    if (command !== "mark" && answer.error !== undefined)
      throw new Error(`the load generator: ${answer.error}`);
    return answer;
  }

  /** What happened since the last call. */
  async mark(): Promise<Window> {
    return (await this.ask("mark")) as Window;
  }

  /** Everything that was stored is read back: how much of it is no longer what it was. */
  async wrongKeys(): Promise<number> {
    return ((await this.ask("check")) as { wrong: number }).wrong;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const gone = new Promise((resolve) => this.#child.once("exit", resolve));
      this.#child.stdin?.end("end\n");
      const patience = setTimeout(() => this.#child.kill("SIGKILL"), 5_000);
      await gone;
      clearTimeout(patience);
    }
    this.#reader.close();
  }
}

/** redis-client.ts. */
export class RedisClient extends LoadClient {
  async fill(megabytes: number): Promise<void> {
    await this.ask(`fill ${megabytes}`);
  }
}
