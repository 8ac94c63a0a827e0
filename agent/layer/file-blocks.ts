import type { PageDigest } from "../native/page-hash.ts";
import type { Segment } from "./sparse.ts";

/** Large files are compared in blocks of this size. */
export const BLOCK_BYTES = 64 * 1024;
/** Smaller files are sent whole. */
export const LARGE_FILE_BYTES = 1024 * 1024;
const DIGEST_WORDS = 4;

/** Blocks one behind the other that are read at once, and where there is data in them. */
export interface BlockWindow {
  readonly firstBlock: number;
  readonly parts: readonly Segment[];
}

/** The windows of at most `blocks` blocks in which a file has data, in order. Pure. */
export function* windowsOf(segments: Iterable<Segment>, blocks: number): Generator<BlockWindow> {
  let firstBlock = -1;
  let parts: Segment[] = [];
  for (const segment of segments) {
    const end = segment.offset + segment.length;
    for (let at = segment.offset; at < end;) {
      const block = Math.floor(at / BLOCK_BYTES);
      if (firstBlock < 0 || block >= firstBlock + blocks) {
        if (parts.length > 0) yield { firstBlock, parts };
        firstBlock = block;
        parts = [];
      }
      const length = Math.min(end, (firstBlock + blocks) * BLOCK_BYTES) - at;
      parts.push({ offset: at, length });
      at += length;
    }
  }
  if (parts.length > 0) yield { firstBlock, parts };
}

/** Numbers of the blocks that parts touch, in order and each once. Pure. */
export function* blocksOf(parts: Iterable<Segment>): Generator<number> {
  let last = -1;
  for (const { offset, length } of parts) {
    const end = Math.ceil((offset + length) / BLOCK_BYTES);
    for (let block = Math.max(last + 1, Math.floor(offset / BLOCK_BYTES)); block < end; block += 1) {
      yield block;
      last = block;
    }
  }
}

/** How much of a block lies within a file. */
export const blockLength = (block: number, sizeBytes: number): number =>
  Math.min(BLOCK_BYTES, sizeBytes - block * BLOCK_BYTES);

/** The hashes of those blocks of a file that have data; all others are holes. Pure. */
export class FileBlocks {
  readonly #numbers: number[] = [];
  #words = new Uint32Array(16 * DIGEST_WORDS);

  get count(): number {
    return this.#numbers.length;
  }

  /** By rising number. */
  push(block: number, { a, b, c, d }: PageDigest): void {
    const at = this.#numbers.length * DIGEST_WORDS;
    if (at === this.#words.length) {
      const larger = new Uint32Array(2 * at);
      larger.set(this.#words);
      this.#words = larger;
    }
    this.#words.set([a, b, c, d], at);
    this.#numbers.push(block);
  }

  /** These, but with the hashes of `newer` where it has any. */
  with(newer: FileBlocks): FileBlocks {
    const merged = new FileBlocks();
    let at = 0;
    for (const [index, block] of this.#numbers.entries()) {
      for (; (newer.#numbers[at] ?? Infinity) < block; at += 1) merged.#copy(newer, at);
      if (newer.#numbers[at] === block) merged.#copy(newer, at++);
      else merged.#copy(this, index);
    }
    for (; at < newer.#numbers.length; at += 1) merged.#copy(newer, at);
    return merged;
  }

  #copy(from: FileBlocks, index: number): void {
    const [a = 0, b = 0, c = 0, d = 0] = from.#words.subarray(
      index * DIGEST_WORDS,
      (index + 1) * DIGEST_WORDS,
    );
    this.push(from.#numbers[index] as number, { a, b, c, d });
  }

  /** What has to be sent of a file that is now `after`, to where it is as it was then. */
  compare(after: FileBlocks): BlockChange {
    const changed: number[] = [];
    const emptied: number[] = [];
    let old = 0;
    for (const [index, block] of after.#numbers.entries()) {
      for (; (this.#numbers[old] ?? Infinity) < block; old += 1) emptied.push(this.#numbers[old] as number);
      const known = this.#numbers[old] === block;
      if (!known || !this.#equals(old, after, index)) changed.push(block);
      if (known) old += 1;
    }
    for (; old < this.#numbers.length; old += 1) emptied.push(this.#numbers[old] as number);
    return { changed, emptied };
  }

  #equals(index: number, other: FileBlocks, otherIndex: number): boolean {
    for (let word = 0; word < DIGEST_WORDS; word += 1) {
      const [at, otherAt] = [index * DIGEST_WORDS + word, otherIndex * DIGEST_WORDS + word];
      if (this.#words[at] !== other.#words[otherAt]) return false;
    }
    return true;
  }
}

export interface BlockChange {
  /** Blocks with other content, by rising number. */
  readonly changed: readonly number[];
  /** Blocks that had content and are holes now, or behind the file's end. */
  readonly emptied: readonly number[];
}

/** All hashes take at most this: 256 GiB of files. Files beyond are sent whole when they change. */
const MAX_BLOCKS = 4 * 1024 * 1024;

/** What the copy of a tree was last sent of its large files, by path. */
export class BlockBook {
  readonly #files = new Map<string, FileBlocks>();
  #blocks = 0;

  /** Hashes that it holds. */
  get count(): number {
    return this.#blocks;
  }

  /** One that knows the same, and learns on its own from now on. */
  fork(): BlockBook {
    const fork = new BlockBook();
    for (const [path, blocks] of this.#files) fork.#files.set(path, blocks);
    fork.#blocks = this.#blocks;
    return fork;
  }

  set(path: string, blocks: FileBlocks): void {
    this.delete(path);
    if (this.#blocks + blocks.count > MAX_BLOCKS) return;
    this.#files.set(path, blocks);
    this.#blocks += blocks.count;
  }

  get(path: string): FileBlocks | undefined {
    return this.#files.get(path);
  }

  delete(path: string): void {
    this.#blocks -= this.#files.get(path)?.count ?? 0;
    this.#files.delete(path);
  }
}
