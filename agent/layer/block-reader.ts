import { read } from "node:fs";
import { promisify } from "node:util";

import { GodwitError } from "../../proto/contract/error.ts";
import { PageHasher } from "../native/page-hash.ts";
import {
  BLOCK_BYTES,
  blockLength,
  blocksOf,
  type BlockWindow,
  FileBlocks,
  windowsOf,
} from "./file-blocks.ts";
import type { Segment } from "./sparse.ts";

const readAsync = promisify(read);
const WINDOW_BLOCKS = 16;

/** An open file of a layer. */
export interface OpenFile {
  readonly descriptor: number;
  readonly path: string;
  /** As announced; what is missing of it counts as zeros. */
  readonly sizeBytes: number;
  /** Whether it may shrink while it is read. */
  readonly mayShrink: boolean;
  readonly signal: AbortSignal;
}

/** A window's content, holes as zeros, from the start of its first block on. */
interface ReadWindow extends BlockWindow {
  readonly bytes: Buffer;
  readonly hasher: PageHasher;
}

class WindowBuffer {
  readonly bytes = Buffer.allocUnsafeSlow(WINDOW_BLOCKS * BLOCK_BYTES);
  readonly hasher = new PageHasher(this.bytes);
}

/** Reads parts of files in blocks: the next is on its way while one is worked on. */
export class BlockReader {
  #buffers: readonly [WindowBuffer, WindowBuffer] | undefined;

  /** Notes the hashes of all blocks that the segments touch. */
  async digests(file: OpenFile, segments: readonly Segment[]): Promise<FileBlocks> {
    const blocks = new FileBlocks();
    for await (const window of this.#windows(file, segments)) noteBlocks(file, window, blocks);
    return blocks;
  }

  /**
   * The content of the segments, one after the other, in pieces that are used before the next is asked for; what was
   * handed out is what `blocks` then holds the hashes of. Segments are all that there is in each block they touch.
   */
  async *content(
    file: OpenFile,
    segments: readonly Segment[],
    blocks: FileBlocks,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const window of this.#windows(file, segments)) {
      const base = window.firstBlock * BLOCK_BYTES;
      for (const { offset, length } of window.parts)
        yield window.bytes.subarray(offset - base, offset - base + length);
      noteBlocks(file, window, blocks);
    }
  }

  async *#windows(file: OpenFile, segments: readonly Segment[]): AsyncGenerator<ReadWindow, void, undefined> {
    let [filling, spare] = (this.#buffers ??= [new WindowBuffer(), new WindowBuffer()]);
    let coming: Promise<ReadWindow> | undefined;
    try {
      for (const window of windowsOf(segments, WINDOW_BLOCKS)) {
        const ready = coming;
        coming = fill(file, window, filling);
        coming.catch(() => undefined); // awaited in the next turn, unless something else fails first
        [filling, spare] = [spare, filling];
        if (ready !== undefined) yield await ready;
        file.signal.throwIfAborted();
      }
      if (coming !== undefined) yield await coming;
    } finally {
      // The file is closed, and the buffer used again, by whoever goes on.
      await coming?.catch(() => undefined);
    }
  }
}

async function fill(file: OpenFile, window: BlockWindow, buffer: WindowBuffer): Promise<ReadWindow> {
  const base = window.firstBlock * BLOCK_BYTES;
  const { bytes, hasher } = buffer;
  let end = 0;
  for (const { offset, length } of window.parts) {
    bytes.fill(0, end, offset - base);
    end = offset - base + length;
    for (let at = offset - base; at < end;) {
      const { bytesRead } = await readAsync(file.descriptor, bytes, at, end - at, base + at);
      if (bytesRead === 0) {
        if (!file.mayShrink) {
          throw new GodwitError(
            "internal",
            `'${file.path}' shrank in the layer although its container is frozen`,
          );
        }
        bytes.fill(0, at, end);
        break;
      }
      at += bytesRead;
    }
  }
  bytes.fill(0, end, Math.ceil(end / BLOCK_BYTES) * BLOCK_BYTES);
  return { ...window, bytes, hasher };
}

function noteBlocks(file: OpenFile, { firstBlock, parts, hasher }: ReadWindow, blocks: FileBlocks): void {
  for (const block of blocksOf(parts))
    blocks.push(block, hasher.digest((block - firstBlock) * BLOCK_BYTES, blockLength(block, file.sizeBytes)));
}
