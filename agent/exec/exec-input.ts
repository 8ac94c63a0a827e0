import { closeSync, writeSync } from "node:fs";
import type { Writable } from "node:stream";

import { duplicateDescriptor, setWindowSize } from "../native/pty.ts";

/** Where the client's bytes go. */
export interface ExecInput {
  /** Bytes accepted by `write` and not yet taken by the process (or by runc on its behalf). */
  readonly pendingBytes: number;
  /** `onTaken` is called with a number of bytes as they are taken, or thrown away because nobody reads any more. */
  write(bytes: Buffer, onTaken: (bytes: number) => void): void;
  /** The client has no more. */
  end(): void;
  /** Throws away what is pending and releases what is held. */
  close(): void;
}

/** For sessions without standard input: what arrives is thrown away. */
export const NO_INPUT: ExecInput = {
  pendingBytes: 0,
  write: (bytes, onTaken) => onTaken(bytes.length),
  end: () => undefined,
  close: () => undefined,
};

export class PipeInput implements ExecInput {
  readonly #stream: Writable;
  #gone = false;

  constructor(stream: Writable) {
    this.#stream = stream;
    // The process has closed its standard input or has ended: no fault, the rest is simply not wanted.
    stream.on("error", () => (this.#gone = true));
  }

  get pendingBytes(): number {
    return this.#gone ? 0 : this.#stream.writableLength;
  }

  write(bytes: Buffer, onTaken: (bytes: number) => void): void {
    if (this.#gone || this.#stream.writableEnded) return onTaken(bytes.length);
    this.#stream.write(bytes, () => onTaken(bytes.length));
  }

  end(): void {
    if (!this.#gone && !this.#stream.writableEnded) this.#stream.end();
  }

  close(): void {
    this.#gone = true;
    this.#stream.destroy();
  }
}

/** The line discipline takes at most this much at once. */
const TERMINAL_WRITE_BYTES = 4096;
const RETRY_MINIMUM_MS = 4;
const RETRY_MAXIMUM_MS = 128;
/** What a terminal's end of input looks like: Control-D. */
const END_OF_TRANSMISSION = Buffer.from([4]);

/**
 * Writes to a pty's master. Not through a tty stream: libuv spins on the event loop while a pty is full. The
 * descriptor does not block, so a write is either done at once or tried again a little later.
 */
export class TerminalInput implements ExecInput {
  /** Own copy: the stream that reads closes its descriptor when it likes, and the number is then another's. */
  readonly #descriptor: number;
  readonly #queue: { bytes: Buffer; onTaken: (bytes: number) => void }[] = [];
  #pendingBytes = 0;
  #retryMs = RETRY_MINIMUM_MS;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(master: number) {
    this.#descriptor = duplicateDescriptor(master);
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  write(bytes: Buffer, onTaken: (bytes: number) => void): void {
    if (this.#closed) return onTaken(bytes.length);
    this.#queue.push({ bytes, onTaken });
    this.#pendingBytes += bytes.length;
    if (this.#timer === undefined) this.#drain();
  }

  end(): void {
    this.write(END_OF_TRANSMISSION, () => undefined);
  }

  resize(rows: number, columns: number): void {
    if (!this.#closed) setWindowSize(this.#descriptor, rows, columns);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#queue.length = 0;
    this.#pendingBytes = 0;
    closeSync(this.#descriptor);
  }

  #drain(): void {
    this.#timer = undefined;
    for (let next = this.#queue[0]; next !== undefined && !this.#closed; next = this.#queue[0]) {
      const written = this.#tryWrite(next.bytes.subarray(0, TERMINAL_WRITE_BYTES));
      if (written === 0) {
        this.#timer = setTimeout(() => this.#drain(), this.#retryMs);
        this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAXIMUM_MS);
        return;
      }
      this.#retryMs = RETRY_MINIMUM_MS;
      this.#pendingBytes -= written;
      if (written === next.bytes.length) this.#queue.shift();
      else next.bytes = next.bytes.subarray(written);
      next.onTaken(written);
    }
  }

  #tryWrite(bytes: Buffer): number {
    try {
      return writeSync(this.#descriptor, bytes);
    } catch (error) {
      // All else means that it is hung up and that nobody will read this.
      return (error as NodeJS.ErrnoException).code === "EAGAIN" ? 0 : bytes.length;
    }
  }
}
