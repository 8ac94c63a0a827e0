import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { compareLayers, withOtherNames } from "../layer/compare.ts";
import { BlockBook } from "../layer/file-blocks.ts";
import { findSharedWritableFiles } from "../layer/mappings.ts";
import { packLayer } from "../layer/pack.ts";
import { encodePaths } from "../layer/paths.ts";
import { scanLayer } from "../layer/scan.ts";
import type { EntryStamp } from "../layer/stamp.ts";
import type { RecordWriter } from "./record-writer.ts";

/** A tree of files that goes with a container: its writable layer, or what is in its /dev and /dev/shm. */
export interface Tree {
  /** In the image stream; "": the writable layer. */
  readonly name: string;
  /** On this host. */
  readonly folder: string;
  /** In the container, relative to its root; "": the root itself. */
  readonly place: string;
}

/** What an earlier copy of a tree has brought. */
export interface TreeState {
  readonly sent: ReadonlyMap<string, EntryStamp>;
  readonly blocks: BlockBook;
  /** Files that were mapped shared and writable then. */
  readonly mapped: ReadonlySet<string>;
}

/**
 * Copies one tree: everything while the container runs, or what has changed since an earlier copy, and then what has
 * changed meanwhile, while it stands still.
 */
export class TreeCopy {
  readonly #tree: Tree;
  readonly #writer: RecordWriter;
  readonly #sent: Map<string, EntryStamp>;
  readonly #blocks: BlockBook;
  /** Files that were mapped shared and writable around the first pass. */
  readonly #mapped = new Set<string>();
  readonly #base: TreeState | undefined;
  readonly #isBuiltUpon: boolean;

  /** @param base what the other end has of it. @param isBuiltUpon `state` will be asked for */
  constructor(tree: Tree, writer: RecordWriter, base?: TreeState, isBuiltUpon = false) {
    this.#tree = tree;
    this.#writer = writer;
    this.#base = base;
    this.#sent = new Map(base?.sent);
    this.#blocks = base?.blocks.fork() ?? new BlockBook();
    this.#isBuiltUpon = isBuiltUpon;
  }

  get name(): string {
    return this.#tree.name;
  }

  /** What the other end has when all is sent. */
  get state(): TreeState {
    return { sent: this.#sent, blocks: this.#blocks, mapped: this.#mapped };
  }

  /** Of its files, as long as they are. */
  get sizeBytes(): number {
    return this.#sent
      .values()
      .reduce((sum, { kind, sizeBytes }) => sum + (kind === "file" ? sizeBytes : 0), 0);
  }

  /** While it runs. Answers the bytes. */
  async sendAll(pids: () => Iterable<number>, signal: AbortSignal): Promise<number> {
    await this.#noteMapped(pids());
    if (this.#base !== undefined) {
      const mapped = new Set([...this.#base.mapped, ...this.#mapped]);
      const bytes = await this.#sendChanged(mapped, true, signal);
      await this.#noteMapped(pids());
      return bytes;
    }
    const { folder, name } = this.#tree;
    const pack = packLayer(folder, "all", {
      signal,
      tolerateVanished: true,
      sent: this.#sent,
      blocks: this.#blocks,
    });
    const bytes = await this.#writer.writePieces(RecordKind.LAYER, pack, name);
    await this.#noteMapped(pids());
    return bytes;
  }

  /**
   * What has changed since, of a frozen container. Answers the bytes.
   *
   * A page of a shared mapping that is dirty already changes no time stamp when it is written again: not while it is
   * mapped, and not if it was when the file was sent first and is no more.
   */
  async sendChange(pids: Iterable<number>, signal: AbortSignal): Promise<number> {
    await this.#noteMapped(pids);
    return await this.#sendChanged(this.#mapped, false, signal);
  }

  async #sendChanged(mapped: ReadonlySet<string>, isRunning: boolean, signal: AbortSignal): Promise<number> {
    const { folder, name } = this.#tree;
    const after = await scanLayer(folder, signal);
    const change = compareLayers(this.#sent, after);
    const written = [...mapped].filter((path) => after.has(path));
    const changed = withOtherNames([...change.changed, ...written], after);
    if (change.deleted.length > 0)
      await this.#writer.write(RecordKind.LAYER_DELETIONS, encodePaths(change.deleted), name);
    // A file that comes later under such a name, and with the same inode, is another one.
    for (const path of this.#sent.keys())
      if (!after.has(path)) {
        this.#sent.delete(path);
        this.#blocks.delete(path);
      }
    if (changed.size === 0) return 0;
    const pack = packLayer(folder, changed, {
      signal,
      tolerateVanished: isRunning,
      sent: this.#sent,
      blocks: this.#blocks,
      isBuiltUpon: this.#isBuiltUpon,
    });
    return await this.#writer.writePieces(RecordKind.LAYER, pack, name);
  }

  async #noteMapped(pids: Iterable<number>): Promise<void> {
    const prefix = this.#tree.place === "" ? "" : `${this.#tree.place}/`;
    for (const path of await findSharedWritableFiles(pids))
      if (path.startsWith(prefix)) this.#mapped.add(path.slice(prefix.length));
  }
}
