import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { compareLayers } from "../layer/compare.ts";
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

/** Copies one tree: everything while the container runs, then what has changed while it stands still. */
export class TreeCopy {
  readonly #tree: Tree;
  readonly #writer: RecordWriter;
  readonly #sent = new Map<string, EntryStamp>();
  readonly #blocks = new BlockBook();
  /** Files that were mapped shared and writable around the first pass. */
  readonly #mapped = new Set<string>();

  constructor(tree: Tree, writer: RecordWriter) {
    this.#tree = tree;
    this.#writer = writer;
  }

  /** While it runs. Answers the bytes. */
  async sendAll(pids: () => Iterable<number>, signal: AbortSignal): Promise<number> {
    await this.#noteMapped(pids());
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
    const { folder, name } = this.#tree;
    const after = await scanLayer(folder, signal);
    const change = compareLayers(this.#sent, after);
    await this.#noteMapped(pids);
    const mapped = [...this.#mapped].filter((path) => after.has(path));
    const changed = new Set([...change.changed, ...mapped]);
    if (change.deleted.length > 0)
      await this.#writer.write(RecordKind.LAYER_DELETIONS, encodePaths(change.deleted), name);
    if (changed.size === 0) return 0;
    const pack = packLayer(folder, changed, {
      signal,
      tolerateVanished: false,
      sent: this.#sent,
      blocks: this.#blocks,
    });
    return await this.#writer.writePieces(RecordKind.LAYER, pack, name);
  }

  async #noteMapped(pids: Iterable<number>): Promise<void> {
    const prefix = this.#tree.place === "" ? "" : `${this.#tree.place}/`;
    for (const path of await findSharedWritableFiles(pids))
      if (path.startsWith(prefix)) this.#mapped.add(path.slice(prefix.length));
  }
}
