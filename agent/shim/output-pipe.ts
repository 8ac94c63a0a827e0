import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { Socket } from "node:net";

import { GodwitError } from "../../proto/contract/error.ts";
import { CHUNK_BYTES } from "./log-lines.ts";

/** What drain reads at most: far more than a pipe holds, so only one that is still being written reaches it. */
const DRAIN_BYTES = 64 * 1024 * 1024;
/** One buffer for all pipes: each chunk is taken in before the next is read. */
const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);

/**
 * The read end of a container's output. It is opened through a path such as /proc/PID/fd/N, which gives an end
 * of its own, so that whoever held it before may go.
 */
export class OutputPipe implements Disposable {
  readonly descriptor: number;
  readonly inode: number;
  readonly #socket: Socket;
  readonly #take: (chunk: Buffer) => void;

  /** @param onEnd called once when every writer is gone, after the last chunk */
  constructor(path: string, take: (chunk: Buffer) => void, onEnd: () => void) {
    let descriptor: number;
    try {
      descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (cause) {
      throw new GodwitError("not-found", `the pipe ${path} cannot be opened: ${(cause as Error).message}`, {
        cause,
      });
    }
    const stat = fstatSync(descriptor);
    if (!stat.isFIFO()) {
      closeSync(descriptor);
      throw new GodwitError("invalid", `${path} is not a pipe`);
    }
    this.descriptor = descriptor;
    this.inode = stat.ino;
    this.#take = take;
    // With a buffer of our own, the stream machinery queues nothing: memory stays flat at any rate.
    this.#socket = new Socket({
      fd: descriptor,
      readable: true,
      writable: false,
      onread: {
        buffer,
        callback: (bytes) => {
          take(buffer.subarray(0, bytes));
          return true;
        },
      },
    });
    this.#socket.on("end", onEnd);
    this.#socket.on("error", onEnd);
    this.#socket.resume();
  }

  /** Takes what can be read at this moment. */
  drain(): void {
    if (this.#socket.destroyed) return;
    for (let total = 0; total < DRAIN_BYTES;) {
      let bytes: number;
      try {
        bytes = readSync(this.descriptor, buffer, 0, buffer.length, null);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "EAGAIN") return;
        throw error;
      }
      if (bytes === 0) return; // the end: the socket will see it too
      total += bytes;
      this.#take(buffer.subarray(0, bytes));
    }
  }

  [Symbol.dispose](): void {
    this.#socket.removeAllListeners("end");
    this.#socket.destroy();
  }
}
