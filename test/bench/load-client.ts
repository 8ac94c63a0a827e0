import { LineProcess } from "./line-process.ts";

/** What the load saw between two marks. */
export interface LoadWindow {
  readonly requests: number;
  /** The longest that one request waited for its answer: the stall, as the client feels it. */
  readonly longestMs: number;
  readonly wrong: number;
  readonly lost: number;
  readonly writtenBytes: number;
  /** The connection lived, every answer was right, and they come again. */
  readonly intact: boolean;
  readonly error: string;
}

/** The load of redis-load.ts in a process of its own, as seen from the one that gives it its commands. */
export class LoadClient implements AsyncDisposable {
  readonly #process: LineProcess;

  /** @param argv program and arguments that run redis-load.ts where it is to run */
  constructor(argv: readonly string[]) {
    this.#process = new LineProcess("the redis client", argv);
  }

  async #ask(command: string): Promise<unknown> {
    const answer = (await this.#process.ask(command)) as { failure?: string };
    if (answer.failure !== undefined) throw new Error(`the redis client: ${answer.failure}`);
    return answer;
  }

  async fill(megabytes: number): Promise<void> {
    await this.#ask(`fill ${megabytes}`);
  }

  async rate(megabytesPerSecond: number): Promise<void> {
    await this.#ask(`rate ${megabytesPerSecond}`);
  }

  async mark(): Promise<LoadWindow> {
    return (await this.#ask("mark")) as LoadWindow;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.end("end\n");
  }
}
