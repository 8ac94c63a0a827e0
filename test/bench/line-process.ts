import { spawn, type ChildProcess } from "node:child_process";
import { createInterface, type Interface } from "node:readline";

const END_PATIENCE_MS = 5_000;

/** A child process that answers each line on its standard input by one line of JSON. */
export class LineProcess {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #reader: Interface;
  readonly #lines: AsyncIterator<string>;
  readonly #gone: Promise<void>;

  constructor(name: string, argv: readonly string[]) {
    this.#name = name;
    const [program = "", ...args] = argv;
    // A process group of its own: Ctrl-C reaches this process, which then ends the child in its order.
    this.#child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"], detached: true });
    if (this.#child.stdout === null) throw new Error(`no pipe to ${name}`);
    this.#gone = new Promise((resolve) => {
      this.#child.once("error", () => resolve());
      this.#child.once("exit", () => resolve());
    });
    this.#child.stdin?.on("error", () => undefined); // its death is told by the missing answer
    this.#reader = createInterface({ input: this.#child.stdout });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  async ask(line: string): Promise<unknown> {
    this.#child.stdin?.write(`${line}\n`);
    const answer = await this.#lines.next();
    if (answer.done === true) throw new Error(`${this.#name} died at '${line.slice(0, 200)}'`);
    return JSON.parse(answer.value);
  }

  /** Asks it to end, and makes it end. */
  async end(farewell: string): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.stdin?.end(farewell);
      const patience = setTimeout(() => this.#child.kill("SIGKILL"), END_PATIENCE_MS);
      await this.#gone;
      clearTimeout(patience);
    }
    this.#reader.close();
  }
}
