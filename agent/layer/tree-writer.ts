import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  ftruncateSync,
  lchownSync,
  linkSync,
  mkdirSync,
  openSync,
  symlinkSync,
  unlinkSync,
  write,
  writeSync,
} from "node:fs";
import { promisify } from "node:util";

import { GodwitError } from "../../proto/contract/error.ts";
import { deviceNumber, makeNode, punchHole, setModified } from "../native/files.ts";
import { writeAttributes, type Attributes } from "./attributes.ts";
import { ROOT_PATH, atPath, joinPath, splitPath } from "./paths.ts";
import { removeTree } from "./remove.ts";
import { statEntry } from "./scan.ts";
import type { Segment } from "./sparse.ts";

const writeAsync = promisify(write);
const SYNC_WRITE_BYTES = 64 * 1024;
const S_IFIFO = 0o010000;
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;
const S_IFSOCK = 0o140000;

/** What every new inode is given. */
export interface Owned {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  readonly attributes: Attributes;
}

/** What to make at a path. Strings are byte strings. */
export type NewEntry =
  | ({ readonly kind: "file"; readonly sizeBytes: number; readonly segments: readonly Segment[] } & Owned)
  /** A change of the file that is there; where it is `cleared`, it has zeros before the segments are written. */
  | ({
      readonly kind: "patch";
      readonly sizeBytes: number;
      readonly segments: readonly Segment[];
      readonly cleared: readonly Segment[];
    } & Owned)
  | ({ readonly kind: "directory" | "fifo" | "socket" } & Owned)
  | ({ readonly kind: "symlink"; readonly target: string } & Owned)
  | ({ readonly kind: "character" | "block"; readonly major: number; readonly minor: number } & Owned)
  | { readonly kind: "link"; readonly target: string };

/**
 * Writes entries below a folder that belongs to root alone, safe against hostile paths: they are taken
 * apart, and each parent is looked at without following symbolic links. What was at a path is replaced by a
 * new inode, except a folder by a folder. Times of folders are set at the end, because writing into them
 * changes them; folders that no entry names keep the times they had.
 */
export class TreeWriter {
  readonly #root: Buffer;
  /** Parents known to be real folders, with the modification time that they are to have in the end. */
  readonly #folders = new Map<string, bigint>();
  entries = 0;
  bytes = 0;

  constructor(root: Buffer) {
    this.#root = root;
  }

  /** Makes one entry; `path` may be hostile. */
  async place(path: string, entry: NewEntry, body: AsyncIterable<Uint8Array>): Promise<void> {
    const components = splitPath(path);
    const at = joinPath(components);
    this.#openParents(components);
    this.entries++;
    if (entry.kind === "directory") {
      await this.#placeFolder(at, entry);
      return;
    }
    if (at === ROOT_PATH)
      throw new GodwitError("invalid", "refused an entry that would replace the root folder");
    const full = atPath(this.#root, at);
    if (entry.kind === "patch") {
      await this.#patchFile(at, full, entry, body);
      writeAttributes(full, entry.attributes, false);
      setModified(full, entry.mtimeNs);
      return;
    }
    const linkTarget = entry.kind === "link" ? this.#linkTarget(at, entry.target) : undefined;
    await this.#clear(at, full);
    switch (entry.kind) {
      case "link":
        if (linkTarget !== undefined) linkSync(linkTarget, full);
        return;
      case "file":
        await this.#writeFile(full, entry, body);
        break;
      case "symlink":
        symlinkSync(Buffer.from(entry.target, "latin1"), full);
        lchownSync(full, entry.uid, entry.gid);
        break;
      case "fifo":
        this.#makeNode(full, S_IFIFO, entry);
        break;
      case "socket":
        this.#makeNode(full, S_IFSOCK, entry);
        break;
      case "character":
        this.#makeNode(full, S_IFCHR, entry, deviceNumber(entry.major, entry.minor));
        break;
      case "block":
        this.#makeNode(full, S_IFBLK, entry, deviceNumber(entry.major, entry.minor));
    }
    writeAttributes(full, entry.attributes, true);
    setModified(full, entry.mtimeNs);
  }

  /** Whether there is anything at this (possibly hostile) path. */
  has(path: string): boolean {
    const components = splitPath(path);
    this.#openParents(components);
    return statEntry(atPath(this.#root, joinPath(components))) !== undefined;
  }

  /** Removes what is there, a whole tree if need be. A parent that is not there is fine. */
  async remove(path: string): Promise<void> {
    const components = splitPath(path);
    if (components.length === 0) throw new GodwitError("invalid", "refused to remove the root folder");
    for (let depth = 1; depth < components.length; depth++) {
      const stats = statEntry(atPath(this.#root, joinPath(components.slice(0, depth))));
      if (stats === undefined || !stats.isDirectory()) return;
    }
    this.#openParents(components);
    const at = joinPath(components);
    await this.#clear(at, atPath(this.#root, at));
  }

  /** Opens the folder at `path` for a change that is not an entry, and returns its place. */
  folder(path: string): Buffer {
    const components = splitPath(path);
    this.#openParents([...components, "x"]);
    return atPath(this.#root, joinPath(components));
  }

  /** To be called once after the last entry. */
  finish(): void {
    for (const [path, mtimeNs] of this.#folders) setModified(atPath(this.#root, path), mtimeNs);
    this.#folders.clear();
  }

  #openParents(components: readonly string[]): void {
    for (let depth = 0; depth < components.length; depth++) {
      const path = joinPath(components.slice(0, depth));
      if (this.#folders.has(path)) continue;
      const full = atPath(this.#root, path);
      let stats = statEntry(full);
      if (stats === undefined) {
        mkdirSync(full, 0o755);
        chmodSync(full, 0o755);
        stats = statEntry(full);
      }
      if (stats?.isDirectory() !== true) {
        const where = Buffer.from(components.join("/"), "latin1").toString("utf8");
        throw new GodwitError(
          "invalid",
          `refused the entry '${where}': it leads through something that is no folder`,
        );
      }
      this.#folders.set(path, stats.mtimeNs);
    }
  }

  async #placeFolder(at: string, entry: Owned): Promise<void> {
    const full = atPath(this.#root, at);
    let fresh = false;
    if (statEntry(full)?.isDirectory() !== true) {
      await this.#clear(at, full);
      mkdirSync(full, 0o700);
      fresh = true;
    }
    lchownSync(full, entry.uid, entry.gid);
    chmodSync(full, entry.mode);
    writeAttributes(full, entry.attributes, fresh);
    this.#folders.set(at, entry.mtimeNs);
  }

  /** Makes room at a path whose parents are open. */
  async #clear(at: string, full: Buffer): Promise<void> {
    const stats = statEntry(full);
    if (stats === undefined) return;
    if (!stats.isDirectory()) {
      unlinkSync(full);
      return;
    }
    await removeTree(full);
    for (const path of this.#folders.keys()) {
      if (path === at || path.startsWith(`${at}/`)) this.#folders.delete(path);
    }
  }

  #linkTarget(at: string, target: string): Buffer {
    const components = splitPath(target);
    const full = atPath(this.#root, joinPath(components));
    const shown = Buffer.from(target, "latin1").toString("utf8");
    for (let depth = 1; depth < components.length; depth++) {
      const path = joinPath(components.slice(0, depth));
      if (!this.#folders.has(path) && statEntry(atPath(this.#root, path))?.isDirectory() !== true) {
        throw new GodwitError(
          "invalid",
          `refused a hard link to '${shown}': it leads through something that is no folder`,
        );
      }
    }
    const stats = statEntry(full);
    if (stats === undefined || stats.isDirectory() || joinPath(components) === at) {
      throw new GodwitError(
        "invalid",
        `refused a hard link to '${shown}': there is no such file in this layer`,
      );
    }
    return full;
  }

  #makeNode(full: Buffer, type: number, entry: Owned, device = 0n): void {
    makeNode(full, type | 0o600, device);
    lchownSync(full, entry.uid, entry.gid);
    chmodSync(full, entry.mode);
  }

  /** In place: names that are hard links to it see the change as well, as they do where it comes from. */
  async #patchFile(
    at: string,
    full: Buffer,
    entry: Extract<NewEntry, { kind: "patch" }>,
    body: AsyncIterable<Uint8Array>,
  ): Promise<void> {
    if (statEntry(full)?.isFile() !== true) {
      const shown = Buffer.from(at, "latin1").toString("utf8");
      throw new GodwitError("corrupt", `a change of '${shown}', which is no file here`);
    }
    const descriptor = openSync(full, constants.O_WRONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      ftruncateSync(descriptor, entry.sizeBytes);
      for (const { offset, length } of entry.cleared) await clear(descriptor, offset, length);
      await this.#writeContent(descriptor, entry, body);
    } finally {
      closeSync(descriptor);
    }
  }

  async #writeFile(
    full: Buffer,
    entry: Extract<NewEntry, { kind: "file" }>,
    body: AsyncIterable<Uint8Array>,
  ): Promise<void> {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const descriptor = openSync(full, flags, 0o600);
    try {
      await this.#writeContent(descriptor, entry, body);
    } finally {
      closeSync(descriptor);
    }
  }

  async #writeContent(
    descriptor: number,
    entry: Extract<NewEntry, { kind: "file" | "patch" }>,
    body: AsyncIterable<Uint8Array>,
  ): Promise<void> {
    const cursor = new SegmentCursor(entry.segments);
    for await (const piece of body) {
      for (let offset = 0; offset < piece.byteLength;) {
        const { position, length } = cursor.take(piece.byteLength - offset);
        await writeFully(descriptor, piece.subarray(offset, offset + length), position);
        offset += length;
      }
      this.bytes += piece.byteLength;
    }
    if (!cursor.done) throw new GodwitError("corrupt", "a file in the tar stream is shorter than announced");
    ftruncateSync(descriptor, entry.sizeBytes);
    // The owner first: changing it takes setuid bits and capabilities away.
    fchownSync(descriptor, entry.uid, entry.gid);
    fchmodSync(descriptor, entry.mode);
  }
}

const ZEROS = Buffer.alloc(64 * 1024);

async function clear(descriptor: number, offset: number, length: number): Promise<void> {
  if (punchHole(descriptor, offset, length)) return;
  for (let done = 0; done < length;) {
    const part = ZEROS.subarray(0, Math.min(ZEROS.byteLength, length - done));
    await writeFully(descriptor, part, offset + done);
    done += part.byteLength;
  }
}

/** Says where in a sparse file the next bytes of its body belong. */
class SegmentCursor {
  readonly #segments: readonly Segment[];
  #index = 0;
  #within = 0;

  constructor(segments: readonly Segment[]) {
    this.#segments = segments;
  }

  get done(): boolean {
    return this.#index >= this.#segments.length;
  }

  take(maximum: number): { position: number; length: number } {
    const segment = this.#segments[this.#index];
    if (segment === undefined)
      throw new GodwitError("corrupt", "a file in the tar stream is longer than announced");
    const position = segment.offset + this.#within;
    const length = Math.min(maximum, segment.length - this.#within);
    this.#within += length;
    if (this.#within === segment.length) {
      this.#index++;
      this.#within = 0;
    }
    return { position, length };
  }
}

async function writeFully(descriptor: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const left = bytes.byteLength - done;
    done +=
      left <= SYNC_WRITE_BYTES
        ? writeSync(descriptor, bytes, done, left, position + done)
        : (await writeAsync(descriptor, bytes, done, left, position + done)).bytesWritten;
  }
}
