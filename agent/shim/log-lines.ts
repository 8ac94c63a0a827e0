/**
 * A container's output as lines of its log, "<stream> <RFC 3339 time with ms> <text>\n". Pure.
 *
 * The stream is `o` or `e`. Upper case (`O`, `E`) says that the text was cut, because it is long, and goes on in
 * the next line of the same stream: who prints it leaves the newline out.
 */
export type LogStream = "o" | "e";

/** Text of one log line at most; what is longer is cut. */
export const LINE_BYTES = 16 * 1024;
/** Output that one call may bring. */
export const CHUNK_BYTES = 32 * 1024;
/** "o 2026-01-31T12:00:00.000Z " */
const HEADER_BYTES = 27;
const NEWLINE = 10;

/** A chunk of nothing but newlines grows the most. Its pages are touched only where they are written. */
const scratch = Buffer.allocUnsafeSlow(LINE_BYTES + CHUNK_BYTES * (HEADER_BYTES + 2) + HEADER_BYTES + 1);

export class LineFormatter {
  readonly #stream: LogStream;
  readonly #partial = Buffer.allocUnsafeSlow(LINE_BYTES);
  #partialBytes = 0;
  #used = 0;

  constructor(stream: LogStream) {
    this.#stream = stream;
  }

  /**
   * Takes at most CHUNK_BYTES of output. The answer holds whole log lines and is valid until the next call of
   * any formatter.
   */
  push(chunk: Buffer, time: Date): Buffer {
    this.#used = 0;
    const stamp = ` ${time.toISOString()} `;
    let start = 0;
    for (;;) {
      const newline = chunk.indexOf(NEWLINE, start);
      const end = newline < 0 ? chunk.length : newline;
      while (this.#partialBytes + (end - start) > LINE_BYTES) {
        const cut = start + LINE_BYTES - this.#partialBytes;
        this.#line(this.#stream.toUpperCase() + stamp, chunk, start, cut);
        start = cut;
      }
      if (newline < 0) break;
      this.#line(this.#stream + stamp, chunk, start, end);
      start = newline + 1;
    }
    chunk.copy(this.#partial, this.#partialBytes, start);
    this.#partialBytes += chunk.length - start;
    return scratch.subarray(0, this.#used);
  }

  /** Ends an unfinished line: nothing more will come. Empty when there is none. */
  end(time: Date): Buffer {
    this.#used = 0;
    if (this.#partialBytes > 0) this.#line(`${this.#stream} ${time.toISOString()} `, this.#partial, 0, 0);
    return scratch.subarray(0, this.#used);
  }

  /** The unfinished line, to be continued by a formatter elsewhere. */
  partial(): Buffer {
    return Buffer.from(this.#partial.subarray(0, this.#partialBytes));
  }

  /** Begins with an unfinished line from elsewhere; what exceeds LINE_BYTES is refused. */
  restore(partial: Buffer): void {
    if (partial.length > LINE_BYTES) throw new RangeError(`an unfinished line of ${partial.length} bytes`);
    this.#partialBytes = partial.copy(this.#partial);
  }

  #line(header: string, chunk: Buffer, start: number, end: number): void {
    this.#used += scratch.write(header, this.#used, "latin1");
    this.#used += this.#partial.copy(scratch, this.#used, 0, this.#partialBytes);
    this.#partialBytes = 0;
    this.#used += chunk.copy(scratch, this.#used, start, end);
    scratch[this.#used] = NEWLINE;
    this.#used += 1;
  }
}
