import { GodwitError } from "../../proto/contract/error.ts";
import { LineFormatter } from "./log-lines.ts";
import { LogWriter } from "./log-store.ts";
import { OutputPipe } from "./output-pipe.ts";
import type { DetachAnswer, PartialLines } from "./protocol.ts";

export interface OutputPaths {
  /** Paths that open the pipes; "" for none. */
  readonly stdout: string;
  readonly stderr: string;
}

interface Stream {
  readonly name: "o" | "e";
  readonly formatter: LineFormatter;
  pipe: OutputPipe | undefined;
}

/** One container's output on its way into its log. */
export class ContainerOutput implements Disposable {
  readonly #writer: LogWriter;
  readonly #streams: readonly [Stream, Stream];

  /** Throws, and leaves nothing open, when a pipe cannot be opened. */
  constructor(dir: string, paths: OutputPaths, partial: PartialLines | undefined) {
    const stdout: Stream = { name: "o", formatter: new LineFormatter("o"), pipe: undefined };
    const stderr: Stream = { name: "e", formatter: new LineFormatter("e"), pipe: undefined };
    this.#streams = [stdout, stderr];
    for (const stream of this.#streams) restore(stream, partial);
    this.#writer = LogWriter.open(dir);
    try {
      this.#open(stdout, paths.stdout);
      this.#open(stderr, paths.stderr);
      // Both on one pipe: two readers would tear its lines apart.
      if (stderr.pipe !== undefined && stderr.pipe.inode === stdout.pipe?.inode) {
        stderr.pipe[Symbol.dispose]();
        stderr.pipe = undefined;
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** The log's end. */
  get offset(): number {
    return this.#writer.offset;
  }

  /** Descriptors of the pipes that are still open. */
  descriptors(): { o: number | undefined; e: number | undefined } {
    return { o: this.#streams[0].pipe?.descriptor, e: this.#streams[1].pipe?.descriptor };
  }

  /** Whether these paths lead to the pipes that are being read already. */
  reads(inodes: readonly (number | undefined)[]): boolean {
    return (
      this.#streams.every((stream, i) => stream.pipe === undefined || stream.pipe.inode === inodes[i]) &&
      this.#streams[0].pipe !== undefined
    );
  }

  /** Takes what can be read at this moment. */
  drain(): void {
    for (const { pipe } of this.#streams) pipe?.drain();
  }

  /** Unfinished lines as they are now, and the log's end. */
  position(): DetachAnswer {
    const [stdout, stderr] = this.#streams;
    return {
      partial: {
        o: stdout.formatter.partial().toString("base64"),
        e: stderr.formatter.partial().toString("base64"),
      },
      offset: this.offset,
    };
  }

  [Symbol.dispose](): void {
    for (const stream of this.#streams) stream.pipe?.[Symbol.dispose]();
    this.#writer[Symbol.dispose]();
  }

  #open(stream: Stream, path: string): void {
    if (path === "") return;
    stream.pipe = new OutputPipe(
      path,
      (chunk) => {
        const now = new Date();
        this.#writer.append(stream.formatter.push(chunk, now), now);
      },
      () => {
        const now = new Date();
        this.#writer.append(stream.formatter.end(now), now);
        stream.pipe?.[Symbol.dispose]();
        stream.pipe = undefined;
      },
    );
  }
}

function restore(stream: Stream, partial: PartialLines | undefined): void {
  const text = partial?.[stream.name] ?? "";
  try {
    stream.formatter.restore(Buffer.from(text, "base64"));
  } catch (cause) {
    throw new GodwitError("invalid", `an unfinished line is too long: ${(cause as Error).message}`, {
      cause,
    });
  }
}
