import { type FSWatcher, watch } from "node:fs";
import { type FileHandle, open, readFile } from "node:fs/promises";
import { join } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";
import { CURRENT, INDEX, parseIndex, PREVIOUS } from "./log-index.ts";

/** What is kept of a log: the bytes from startOffset up to endOffset of the container's whole log. */
export interface LogRange {
  readonly startOffset: number;
  readonly endOffset: number;
}

export interface LogPiece {
  /** Of the first byte of `data`. Later than asked for when a rotation has dropped what was asked for. */
  readonly offset: number;
  /** Whole lines; empty at the log's end. */
  readonly data: Buffer;
}

interface OpenLogFile {
  readonly handle: FileHandle;
  readonly baseOffset: number;
  readonly sizeBytes: number;
}

const endOf = (file: OpenLogFile | undefined): number =>
  file === undefined ? 0 : file.baseOffset + file.sizeBytes;

const NEWLINE = 10;
const READ_BYTES = 64 * 1024;
/** Insurance against a watch that reports nothing (some file systems). */
const POLL_MS = 1_000;

/** The files of the log, oldest first, as they are at one moment; a rotation meanwhile means looking again. */
async function withFiles<T>(dir: string, use: (files: readonly OpenLogFile[]) => Promise<T>): Promise<T> {
  const path = join(dir, INDEX);
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const before = await readOrEmpty(path);
    const handles: FileHandle[] = [];
    try {
      const files: OpenLogFile[] = [];
      for (const name of [PREVIOUS, CURRENT]) {
        const handle = await openOrNothing(join(dir, name));
        if (handle === undefined) continue;
        handles.push(handle);
        const { ino, size } = await handle.stat();
        const known = parseIndex(before).files.find(({ inode }) => inode === ino);
        if (known !== undefined) files.push({ handle, baseOffset: known.baseOffset, sizeBytes: size });
      }
      // Unchanged: no rotation began since, so both names were opened between two rotations.
      const settled =
        files.length === handles.length &&
        (files.length > 0 || before === "") &&
        // A rotation between the two opens: the file in the middle was missed.
        files.every((file, i) => i === 0 || file.baseOffset === endOf(files[i - 1]));
      if (settled && (await readOrEmpty(path)) === before) return await use(files);
    } finally {
      for (const handle of handles) await handle.close();
    }
  }
  throw new GodwitError("unavailable", `the log in ${dir} does not hold still`);
}

export function logRange(dir: string): Promise<LogRange> {
  return withFiles(dir, async (files) => {
    return Promise.resolve({ startOffset: files[0]?.baseOffset ?? 0, endOffset: endOf(files.at(-1)) });
  });
}

/** Whole lines from `offset` (which is to be the start of one) on, at most `maximumBytes` (at least 32 KiB). */
export function readLog(dir: string, offset: number, maximumBytes: number = READ_BYTES): Promise<LogPiece> {
  return withFiles(dir, async (files) => {
    const from = Math.max(offset, files[0]?.baseOffset ?? 0);
    const file = files.find((candidate) => from < endOf(candidate));
    if (file === undefined) return { offset: from, data: Buffer.alloc(0) };
    const inFile = from - file.baseOffset;
    const buffer = Buffer.allocUnsafe(Math.min(Math.max(maximumBytes, 32 * 1024), file.sizeBytes - inFile));
    const { bytesRead } = await file.handle.read(buffer, 0, buffer.length, inFile);
    // The writer may be in the middle of a line.
    return { offset: from, data: buffer.subarray(0, buffer.subarray(0, bytesRead).lastIndexOf(NEWLINE) + 1) };
  });
}

/** Where the last `lines` lines begin: the start of what is kept when there are fewer or `lines` is negative. */
export function tailOffset(dir: string, lines: number): Promise<number> {
  return withFiles(dir, async (files) => {
    const last = files.at(-1);
    if (last === undefined) return 0;
    if (lines < 0) return files[0]?.baseOffset ?? 0;
    // The newline that ends the last line is not a beginning: one more is looked for.
    let wanted = lines + 1;
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (const file of files.toReversed()) {
      for (let end = file.sizeBytes; end > 0;) {
        const start = Math.max(0, end - READ_BYTES);
        await file.handle.read(buffer, 0, end - start, start);
        for (let at = buffer.lastIndexOf(NEWLINE, end - start - 1); at >= 0;) {
          wanted -= 1;
          if (wanted === 0) return file.baseOffset + start + at + 1;
          at = at === 0 ? -1 : buffer.lastIndexOf(NEWLINE, at - 1);
        }
        end = start;
      }
    }
    return files[0]?.baseOffset ?? 0;
  });
}

/**
 * Lines from `offset` on as they are written. Ends when `signal` aborts; when `finish` aborts, it ends after
 * what had been written by then.
 */
export async function* followLog(
  dir: string,
  offset: number,
  signal: AbortSignal,
  finish?: AbortSignal,
): AsyncGenerator<LogPiece, void, void> {
  using changes = new FolderChanges(dir);
  const either = finish === undefined ? signal : AbortSignal.any([signal, finish]);
  let next = offset;
  while (!signal.aborted) {
    changes.clear();
    const finishing = finish?.aborted ?? false;
    const piece = await readLog(dir, next);
    if (piece.data.length > 0) {
      yield piece;
      next = piece.offset + piece.data.length;
    } else if (finishing) return;
    else await changes.wait(either);
  }
}

/** Wakes a waiter when something in a folder changes. The folder may not exist yet. */
class FolderChanges implements Disposable {
  readonly #dir: string;
  #watcher: FSWatcher | undefined;
  #changed = false;
  #wake: (() => void) | undefined;

  constructor(dir: string) {
    this.#dir = dir;
    this.#watch();
  }

  clear(): void {
    this.#changed = false;
  }

  async wait(signal: AbortSignal): Promise<void> {
    if (this.#changed || signal.aborted) return;
    const watching = this.#watch();
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, watching ? POLL_MS : POLL_MS / 10);
    const onAbort = (): void => resolve();
    signal.addEventListener("abort", onAbort);
    this.#wake = resolve;
    await promise;
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
    this.#wake = undefined;
  }

  [Symbol.dispose](): void {
    this.#watcher?.close();
  }

  #watch(): boolean {
    if (this.#watcher !== undefined) return true;
    try {
      this.#watcher = watch(this.#dir, () => {
        this.#changed = true;
        this.#wake?.();
      });
    } catch {
      return false; // not there yet, or no watches left: polling serves
    }
    this.#watcher.on("error", () => {
      this.#watcher?.close();
      this.#watcher = undefined;
    });
    return true;
  }
}

async function readOrEmpty(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

async function openOrNothing(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
