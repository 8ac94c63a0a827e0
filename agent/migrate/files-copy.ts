import type { ContainerRuntime } from "../container/runtime.ts";
import type { Copied } from "./copied.ts";
import { sendLog } from "./log-copy.ts";
import type { RecordWriter } from "./record-writer.ts";
import { TreeCopy, type TreeState } from "./tree-copy.ts";
import { treesOf } from "./trees.ts";

/** A container's files and its log: all of them while it runs, and what has changed since when it stands still. */
export class FilesCopy {
  /** Of files, that were sent. */
  bytes = 0;
  readonly #runtime: ContainerRuntime;
  readonly #writer: RecordWriter;
  readonly #trees: readonly TreeCopy[];
  #logSent: number;

  /** @param base what the other end has. @param isBuiltUpon `states` will be asked for */
  constructor(
    runtime: ContainerRuntime,
    writer: RecordWriter,
    base: Pick<Copied, "trees" | "logOffset"> | undefined,
    isBuiltUpon: boolean,
  ) {
    this.#runtime = runtime;
    this.#writer = writer;
    this.#logSent = base?.logOffset ?? 0;
    this.#trees = treesOf(runtime.paths).map(
      (tree) => new TreeCopy(tree, writer, base?.trees.get(tree.name), isBuiltUpon),
    );
  }

  async sendAll(signal: AbortSignal): Promise<void> {
    for (const tree of this.#trees) this.bytes += await tree.sendAll(() => this.#pids(), signal);
    await this.sendLog();
  }

  /** Of the files alone. */
  async sendChange(signal: AbortSignal): Promise<void> {
    for (const tree of this.#trees) this.bytes += await tree.sendChange(this.#pids(), signal);
  }

  /** What has been written to the log since it was sent last. Answers what is kept of it, from where to where. */
  async sendLog(): Promise<{ readonly startOffset: number; readonly endOffset: number }> {
    const range = await sendLog(this.#writer, this.#runtime.paths.log, this.#logSent);
    this.#logSent = range.endOffset;
    return range;
  }

  /** What the other end has when all is sent, by the trees' names. */
  get states(): Map<string, TreeState> {
    return new Map(this.#trees.map((tree) => [tree.name, tree.state]));
  }

  /** Of all files, as they are in the container. */
  get sizeBytes(): number {
    return this.#trees.reduce((sum, tree) => sum + tree.sizeBytes, 0);
  }

  #pids(): number[] {
    return [...this.#runtime.cgroup.processes()];
  }
}
