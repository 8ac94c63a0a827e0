/**
 * Container logs as agents keep them, "<stream> <RFC 3339 time> <text>\n", taken apart into what the container wrote.
 * Pure. The stream is `o` or `e`; in upper case, the text was cut there and its line goes on in the next of that stream.
 */

/** What one stream wrote before the other one did. */
export interface Piece {
  readonly stream: "o" | "e";
  readonly bytes: Buffer;
}

const NEWLINE = 10;
const SPACE = 32;
const LINE_END = Buffer.from("\n");

export class LogLines {
  readonly #timestamps: boolean;
  #rest: Buffer = Buffer.alloc(0);
  /** Streams that are in the middle of a cut line: their next piece gets no time of its own. */
  readonly #unfinished = new Set<string>();

  constructor(timestamps: boolean) {
    this.#timestamps = timestamps;
  }

  /** Takes any piece of a log; what it ends with in the middle of a line is kept for the next. */
  push(data: Buffer): Piece[] {
    const bytes = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    const runs: Run[] = [];
    let start = 0;
    for (let end = bytes.indexOf(NEWLINE, start); end !== -1; end = bytes.indexOf(NEWLINE, start)) {
      this.#line(bytes.subarray(start, end), runs);
      start = end + 1;
    }
    this.#rest = Buffer.from(bytes.subarray(start));
    return runs.map((run) => ({ stream: run.stream, bytes: Buffer.concat(run.parts) }));
  }

  /** Of a line that has only begun. */
  get restBytes(): number {
    return this.#rest.length;
  }
  /** No stream is in the middle of a line whose beginning was told. */
  get isWhole(): boolean {
    return this.#unfinished.size === 0;
  }

  /** Forgets an unfinished line, because what follows is not its continuation. */
  reset(): void {
    this.#rest = Buffer.alloc(0);
    this.#unfinished.clear();
  }

  #line(line: Buffer, runs: Run[]): void {
    const mark = String.fromCharCode(line[0] ?? 0);
    const stream = mark.toLowerCase();
    const textAt = line.indexOf(SPACE, 2) + 1;
    if ((stream !== "o" && stream !== "e") || line[1] !== SPACE || textAt === 0) {
      append(runs, "o", line, LINE_END); // not in the agreed form: better shown than dropped
      return;
    }
    const text = line.subarray(this.#timestamps && !this.#unfinished.has(stream) ? 2 : textAt);
    if (mark === stream) {
      append(runs, stream, text, LINE_END);
      this.#unfinished.delete(stream);
    } else {
      append(runs, stream, text);
      this.#unfinished.add(stream);
    }
  }
}

interface Run {
  readonly stream: "o" | "e";
  readonly parts: Buffer[];
}

function append(runs: Run[], stream: "o" | "e", ...parts: Buffer[]): void {
  const last = runs.at(-1);
  if (last?.stream === stream) last.parts.push(...parts);
  else runs.push({ stream, parts });
}
