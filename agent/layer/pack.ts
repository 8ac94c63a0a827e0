import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  read,
  readSync,
  readlinkSync,
  realpathSync,
  type BigIntStats,
} from "node:fs";
import { promisify } from "node:util";

import { GodwitError } from "../../proto/contract/error.ts";
import { nextData, splitDeviceNumber } from "../native/files.ts";
import { readAttributes } from "./attributes.ts";
import { BlockReader, type OpenFile } from "./block-reader.ts";
import { type BlockBook, FileBlocks, LARGE_FILE_BYTES } from "./file-blocks.ts";
import { patchOf } from "./patch.ts";
import { atPath, joinPath, splitPath } from "./paths.ts";
import { SPARSE_MAP, SPARSE_SIZE, SPECIAL_TYPE, XATTR_PREFIX, type PaxRecords } from "./pax.ts";
import { isAt, statEntry, walkLayer } from "./scan.ts";
import { boundSegments, encodeSegments, type Segment } from "./sparse.ts";
import { stampOf, type EntryStamp } from "./stamp.ts";
import { TAR_END, encodeTarHeader, paddingOf, type TarMember } from "./tar-header.ts";

const readAsync = promisify(read);
/** Pieces that come out are of this size, whatever the files' sizes are. */
const PIECE_BYTES = 256 * 1024;
/** Smaller reads are not worth a trip to libuv's pool. */
const SYNC_READ_BYTES = 16 * 1024;
const ZEROS = Buffer.alloc(64 * 1024);

export interface PackOptions {
  readonly signal: AbortSignal;
  /**
   * While the container runs: an entry that is gone is left out, and a file that grows or shrinks while it
   * is read is cut or filled with zeros to the size announced. Otherwise either is an error.
   */
  readonly tolerateVanished: boolean;
  /**
   * Gets the stamp that each entry had when it was sent. This, and not an earlier scan, is the `before` for
   * compareLayers: what was skipped, or was something else at that moment, is then sent again.
   */
  readonly sent?: Map<string, EntryStamp>;
  /**
   * What large files were sent as: noted of those that are sent now. Of one that was sent before, under this path and
   * from this inode (`sent`), only blocks with other content are sent.
   */
  readonly blocks?: BlockBook;
  /** What is sent of a frozen container is noted as well: it will be built upon. */
  readonly isBuiltUpon?: boolean;
}

/**
 * The entries of a layer as tar bytes, in pieces that belong to the caller. A directory stands for itself
 * only, not for its content. "all" is the whole layer.
 */
export async function* packLayer(
  upperDir: string,
  paths: Iterable<string> | "all",
  options: PackOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const root = realpathSync(upperDir, "buffer");
  const pieces = new Pieces();
  /** First path sent of each inode with several links. */
  const links = new Map<bigint, string>();
  const reader = new BlockReader();
  for await (const path of paths === "all" ? everyPath(root, options.signal) : paths) {
    options.signal.throwIfAborted();
    using source = openSource(root, path, links);
    if (source === undefined) {
      if (options.tolerateVanished) continue;
      throw new GodwitError("internal", `'${path}' vanished from the layer although its container is frozen`);
    }
    const { descriptor, stamp } = source;
    const isLarge = descriptor !== undefined && stamp.sizeBytes >= LARGE_FILE_BYTES;
    if (isLarge && options.blocks !== undefined) {
      const file = { descriptor, path, sizeBytes: stamp.sizeBytes, mayShrink: options.tolerateVanished };
      yield* packLarge({ ...file, signal: options.signal }, source, { ...options, blocks: options.blocks }, [
        reader,
        pieces,
      ]);
    } else {
      yield* pieces.add(encodeTarHeader(source.member));
      if (descriptor !== undefined) {
        for (const segment of source.segments) yield* packSegment(descriptor, path, segment, pieces, options);
        yield* pieces.add(ZEROS.subarray(0, paddingOf(source.member.bodyBytes)));
      }
      noteLink(path, source, options);
    }
    if (source.linkKey !== undefined && !links.has(source.linkKey)) links.set(source.linkKey, path);
    options.sent?.set(path, source.stamp);
  }
  yield* pieces.add(TAR_END);
  yield* pieces.end();
}

async function* everyPath(root: Buffer, signal: AbortSignal): AsyncGenerator<string, void, undefined> {
  for await (const { path } of walkLayer(root, signal)) yield path;
}

/** With its blocks noted; of one that was sent before, its changes. */
async function* packLarge(
  file: OpenFile,
  { member, segments, stamp }: Source,
  { sent, blocks: book, isBuiltUpon = false }: PackOptions & { readonly blocks: BlockBook },
  [reader, pieces]: [BlockReader, Pieces],
): AsyncGenerator<Uint8Array, void, undefined> {
  const before = sent?.get(file.path)?.inode === stamp.inode ? book.get(file.path) : undefined;
  const now = before === undefined ? undefined : await reader.digests(file, segments);
  const patch = before === undefined || now === undefined ? undefined : patchOf(before, now, segments, stamp);
  const body = patch?.segments ?? segments;
  const told = new FileBlocks();
  yield* pieces.add(
    encodeTarHeader(
      patch === undefined
        ? member
        : { ...member, bodyBytes: patch.bodyBytes, pax: { ...member.pax, ...patch.pax } },
    ),
  );
  for await (const content of reader.content(file, body, told)) yield* pieces.add(content);
  yield* pieces.add(ZEROS.subarray(0, paddingOf(patch?.bodyBytes ?? member.bodyBytes)));
  // A frozen container is looked at once more, and waits. Of one that runs, what changed between two looks is in what
  // was told, not in what was seen.
  if (!file.mayShrink && !isBuiltUpon) book.delete(file.path);
  else book.set(file.path, patch === undefined || now === undefined ? told : now.with(told));
}

/** A further name of a file whose blocks are known. */
function noteLink(path: string, { member }: Source, { blocks }: PackOptions): void {
  const linked = member.linkName === undefined ? undefined : blocks?.get(member.linkName);
  if (linked === undefined) blocks?.delete(path);
  else blocks?.set(path, linked);
}

async function* packSegment(
  descriptor: number,
  path: string,
  segment: Segment,
  pieces: Pieces,
  options: PackOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let done = 0; done < segment.length;) {
    const room = pieces.room(segment.length - done);
    const position = segment.offset + done;
    const length =
      room.byteLength <= SYNC_READ_BYTES
        ? readSync(descriptor, room, 0, room.byteLength, position)
        : (await readAsync(descriptor, room, 0, room.byteLength, position)).bytesRead;
    if (length === 0) {
      if (!options.tolerateVanished) {
        throw new GodwitError("internal", `'${path}' shrank in the layer although its container is frozen`);
      }
      room.fill(0);
    }
    const taken = length === 0 ? room.byteLength : length;
    done += taken;
    options.signal.throwIfAborted();
    yield* pieces.filled(taken);
  }
}

interface Source extends Disposable {
  readonly member: TarMember;
  readonly stamp: EntryStamp;
  readonly segments: readonly Segment[];
  /** Open if there is a body to read. */
  readonly descriptor: number | undefined;
  /** Inode, if it has other names that may follow. */
  readonly linkKey: bigint | undefined;
}

const isGone = (error: unknown): boolean =>
  ["ENOENT", "ENOTDIR", "ELOOP", "ENXIO", "EINVAL"].includes((error as NodeJS.ErrnoException).code ?? "");

/** undefined if the entry is gone, or became another kind between two looks. */
function openSource(root: Buffer, path: string, links: ReadonlyMap<bigint, string>): Source | undefined {
  const full = atPath(root, joinPath(splitPath(path)));
  let descriptor: number | undefined;
  try {
    const nowMs = Date.now();
    let stats = statEntry(full);
    if (stats === undefined) return undefined;
    if (stats.isFile()) {
      // Not blocking: should a FIFO have taken the file's place, opening it must not wait for a writer.
      descriptor = openSync(full, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      stats = fstatSync(descriptor, { bigint: true });
      if (!stats.isFile() || !isAt(descriptor, full)) {
        closeSync(descriptor);
        return undefined;
      }
    }
    const source = describe(full, path, stats, nowMs, descriptor, links);
    const opened = descriptor;
    return {
      ...source,
      [Symbol.dispose]: () => {
        if (opened !== undefined) closeSync(opened);
      },
    };
  } catch (error) {
    if (descriptor !== undefined) closeSync(descriptor);
    if (isGone(error)) return undefined;
    throw error;
  }
}

function describe(
  full: Buffer,
  path: string,
  stats: BigIntStats,
  nowMs: number,
  descriptor: number | undefined,
  links: ReadonlyMap<bigint, string>,
): Omit<Source, typeof Symbol.dispose> {
  const stamp = stampOf(stats, nowMs);
  const common = {
    name: path,
    mode: stamp.mode,
    uid: stamp.uid,
    gid: stamp.gid,
    mtimeNs: stamp.mtimeNs,
    bodyBytes: 0,
  };
  const linkKey =
    stamp.kind !== "directory" && stamp.kind !== "whiteout" && stats.nlink > 1n ? stats.ino : undefined;
  const base = { stamp, segments: [], descriptor: undefined, linkKey };
  const first = linkKey === undefined ? undefined : links.get(linkKey);
  if (first !== undefined && first !== path) {
    return { ...base, member: { ...common, type: "link", linkName: first, pax: {} } };
  }
  const pax: PaxRecords = {};
  if (stamp.kind !== "whiteout") {
    for (const [name, value] of readAttributes(full)) pax[XATTR_PREFIX + name] = value.toString("latin1");
  }
  switch (stamp.kind) {
    case "file": {
      if (descriptor === undefined) throw new GodwitError("internal", `'${path}' was not opened`);
      const segments = segmentsOf(descriptor, stats);
      const bodyBytes = segments.reduce((sum, { length }) => sum + length, 0);
      if (bodyBytes !== stamp.sizeBytes) {
        pax[SPARSE_MAP] = encodeSegments(segments);
        pax[SPARSE_SIZE] = String(stamp.sizeBytes);
      }
      return { ...base, segments, descriptor, member: { ...common, type: "file", bodyBytes, pax } };
    }
    case "symlink":
      return { ...base, member: { ...common, type: "symlink", linkName: readlinkSync(full, "latin1"), pax } };
    case "whiteout":
      return { ...base, member: { ...common, type: "character", pax } };
    case "character":
    case "block":
      return { ...base, member: { ...common, type: stamp.kind, ...splitDeviceNumber(stats.rdev), pax } };
    case "socket":
      return { ...base, member: { ...common, type: "file", pax: { ...pax, [SPECIAL_TYPE]: "socket" } } };
    case "fifo":
    case "directory":
      return { ...base, member: { ...common, type: stamp.kind, pax } };
  }
}

/** Runs of data up to the size that was announced; one run if the file has no holes. */
function segmentsOf(descriptor: number, stats: BigIntStats): Segment[] {
  const sizeBytes = Number(stats.size);
  if (sizeBytes === 0) return [];
  if (stats.blocks * 512n >= stats.size) return [{ offset: 0, length: sizeBytes }];
  const segments: Segment[] = [];
  for (let run = nextData(descriptor, 0); run !== undefined && run.offset < sizeBytes;) {
    const length = Math.min(run.length, sizeBytes - run.offset);
    segments.push({ offset: run.offset, length });
    run = nextData(descriptor, run.offset + length);
  }
  return boundSegments(segments);
}

/** Gathers bytes of all sizes into pieces of one size, reading files right into them. */
class Pieces {
  #piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
  #used = 0;

  /** Where to put up to `maximum` more bytes; then call `filled`. */
  room(maximum: number): Buffer {
    return this.#piece.subarray(this.#used, Math.min(this.#used + maximum, PIECE_BYTES));
  }

  *filled(bytes: number): Generator<Uint8Array, void, undefined> {
    this.#used += bytes;
    if (this.#used < PIECE_BYTES) return;
    yield this.#piece;
    this.#piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
    this.#used = 0;
  }

  *add(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
    for (let offset = 0; offset < bytes.byteLength;) {
      const room = this.room(bytes.byteLength - offset);
      room.set(bytes.subarray(offset, offset + room.byteLength));
      offset += room.byteLength;
      yield* this.filled(room.byteLength);
    }
  }

  *end(): Generator<Uint8Array, void, undefined> {
    if (this.#used > 0) yield this.#piece.subarray(0, this.#used);
    this.#used = 0;
  }
}
