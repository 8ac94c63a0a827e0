import { closeSync } from "node:fs";

import { openPipe } from "../native/sockets.ts";

/** Pipes that carry a container's output to the shim. Closes their ends but for those that somebody has taken. */
export class OutputPipes implements Disposable {
  readonly writeStdout: number;
  readonly writeStderr: number;
  #readers: readonly [stdout: number, stderr: number] | undefined;

  constructor() {
    const [readStdout, writeStdout] = openPipe();
    const [readStderr, writeStderr] = openPipe();
    this.writeStdout = writeStdout;
    this.writeStderr = writeStderr;
    this.#readers = [readStdout, readStderr];
  }

  /** Whoever takes the reading ends closes them. */
  takeReaders(): readonly [stdout: number, stderr: number] {
    const readers = this.#readers;
    if (readers === undefined) throw new TypeError("the reading ends have been taken");
    this.#readers = undefined;
    return readers;
  }

  [Symbol.dispose](): void {
    for (const descriptor of [this.writeStdout, this.writeStderr, ...(this.#readers ?? [])])
      closeSync(descriptor);
    this.#readers = undefined;
  }
}
