/** Our terminal, handed through to a terminal in a container: every byte goes as it is, both ways. */
import { spawnSync } from "node:child_process";

interface Size {
  readonly rows: number;
  readonly columns: number;
}

export class RawTerminal implements Disposable {
  /** What stty needs to put everything back; undefined: there is no stty, or nothing was changed. */
  readonly #saved: string | undefined;
  readonly #raw: boolean;
  #onResize: (() => void) | undefined;

  constructor(raw: boolean) {
    this.#raw = raw;
    if (!raw) return;
    this.#saved = stty("-g");
    // Node's own raw mode still turns a line feed into carriage return and line feed on output, which breaks
    // full-screen programs: they use a bare line feed to go one line down.
    if (this.#saved === undefined || stty("raw", "-echo") === undefined) process.stdin.setRawMode(true);
  }

  get size(): Size {
    return { rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 };
  }

  onResize(tell: (size: Size) => void): void {
    this.#onResize = () => tell(this.size);
    process.stdout.on("resize", this.#onResize);
  }

  [Symbol.dispose](): void {
    if (this.#onResize !== undefined) process.stdout.off("resize", this.#onResize);
    if (!this.#raw) return;
    if (this.#saved === undefined) process.stdin.setRawMode(false);
    else stty(this.#saved);
  }
}

/** What it printed; undefined when it failed or is not there. */
function stty(...args: readonly string[]): string | undefined {
  const { status, stdout } = spawnSync("stty", args, {
    stdio: ["inherit", "pipe", "ignore"],
    encoding: "utf8",
  });
  return status === 0 ? stdout.trim() : undefined;
}
