/**
 * Files that an import works on: below the data folder, private to us, bounded by a limit and by the free space,
 * and gone when their owner lets go of them. What a crash leaves is removed at the next start.
 */
import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rm, statfs, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError } from "../../../proto/contract/error.ts";

/** Left free on the data folder's file system, which the log shares. */
const RESERVE_BYTES = 256 * 2 ** 20;
/** Free space is asked for again each time so many bytes were written. */
const RECHECK_BYTES = 64 * 2 ** 20;

export class SpoolFolder {
  readonly #path: string;
  readonly #maxBytes: number;

  private constructor(path: string, maxBytes: number) {
    this.#path = path;
    this.#maxBytes = maxBytes;
  }

  /** `maxBytes` bounds each file. Removes what an earlier process left. */
  static async open(dataDir: string, maxBytes: number): Promise<SpoolFolder> {
    const path = join(dataDir, "import");
    await mkdir(path, { recursive: true, mode: 0o700 });
    for (const name of await readdir(path)) {
      if (name.endsWith(".part")) await rm(join(path, name), { force: true });
    }
    return new SpoolFolder(path, maxBytes);
  }

  /** Writes all of `chunks` to a new file. `what` names the data in errors. */
  async write(chunks: AsyncIterable<Buffer>, what: string, signal: AbortSignal): Promise<SpoolFile> {
    const path = join(this.#path, `${randomBytes(8).toString("hex")}.part`);
    const handle = await open(path, "wx+", 0o600);
    try {
      const sizeBytes = await this.#fill(handle, chunks, what, signal);
      return new SpoolFile(path, handle, sizeBytes);
    } catch (error) {
      await handle.close();
      await rm(path, { force: true });
      throw error;
    }
  }

  async #fill(
    handle: FileHandle,
    chunks: AsyncIterable<Buffer>,
    what: string,
    signal: AbortSignal,
  ): Promise<number> {
    let written = 0;
    let checkAt = 0;
    for await (const chunk of chunks) {
      signal.throwIfAborted();
      if (written + chunk.length > this.#maxBytes) {
        throw new GodwitError(
          "exhausted",
          `${what} is larger than the limit of ${this.#maxBytes} bytes (maxImageBytes of the API's configuration)`,
        );
      }
      if (written + chunk.length > checkAt) {
        const disk = await statfs(this.#path);
        const freeBytes = disk.bavail * disk.bsize - RESERVE_BYTES;
        if (freeBytes < chunk.length) {
          throw new GodwitError(
            "exhausted",
            `no room for ${what} below ${this.#path}: ${written} bytes were taken in and ${RESERVE_BYTES} must stay free`,
          );
        }
        checkAt = written + Math.min(freeBytes, RECHECK_BYTES);
      }
      // write() may take less than all of it.
      for (let from = 0; from < chunk.length;) {
        const { bytesWritten } = await handle.write(chunk, from, chunk.length - from);
        from += bytesWritten;
      }
      written += chunk.length;
    }
    return written;
  }
}

export class SpoolFile implements AsyncDisposable {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly sizeBytes: number;

  constructor(path: string, handle: FileHandle, sizeBytes: number) {
    this.#path = path;
    this.#handle = handle;
    this.sizeBytes = sizeBytes;
  }

  /** Bytes from `offset` on, all of them by default. */
  read(offset = 0, length = this.sizeBytes - offset): AsyncIterable<Buffer> {
    if (length <= 0) return nothing();
    return createReadStream(this.#path, {
      start: offset,
      end: offset + length - 1,
      highWaterMark: 256 * 1024,
    });
  }

  /** At most `length` bytes from `offset`, at once: for short things only. */
  async slice(offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.alloc(Math.max(0, Math.min(length, this.sizeBytes - offset)));
    let filled = 0;
    while (filled < buffer.length) {
      const { bytesRead } = await this.#handle.read(buffer, filled, buffer.length - filled, offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return buffer.subarray(0, filled);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
    await rm(this.#path, { force: true });
  }
}

async function* nothing(): AsyncGenerator<Buffer> {}
