import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";
import { CURRENT, INDEX, type LogIndex, NEXT, PREVIOUS, readIndexSync } from "./log-index.ts";

export { followLog, logRange, type LogPiece, readLog, tailOffset } from "./log-reader.ts";

/** A file is rotated before it would grow beyond this. */
const LOG_FILE_BYTES = 8 * 1024 * 1024;
const NEWLINE = 10;

/**
 * Writes one container's log: log.previous and log.current, and log.json, which says at what offset of the whole
 * log each begins. Offsets count bytes since the container was created and only grow, over moves too.
 *
 * log.json names files by inode, and is written before the renames of a rotation: at every moment, and after a
 * crash at any moment, it tells the truth about each file under either name. Synchronous: it is the sink of
 * pipes, and while a disk is slow the container's own writes are to wait, not memory to grow.
 */
export class LogWriter implements Disposable {
  readonly #dir: string;
  readonly #maximumBytes: number;
  #descriptor = -1;
  #baseOffset = 0;
  #sizeBytes = 0;
  #lostBytes = 0;
  #lostWhy = "";

  private constructor(dir: string, maximumBytes: number) {
    this.#dir = dir;
    this.#maximumBytes = maximumBytes;
  }

  /** Goes on with the log in `dir`, or begins one at offset 0. */
  static open(dir: string, maximumBytes: number = LOG_FILE_BYTES): LogWriter {
    const writer = new LogWriter(dir, maximumBytes);
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    writer.#recover(0);
    return writer;
  }

  /** Begins a log at an offset of its own and forgets whatever log `dir` had. */
  static create(dir: string, baseOffset: number, maximumBytes: number = LOG_FILE_BYTES): LogWriter {
    const writer = new LogWriter(dir, maximumBytes);
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    for (const name of [PREVIOUS, CURRENT, NEXT, INDEX]) rmSync(join(dir, name), { force: true });
    writer.#recover(baseOffset);
    return writer;
  }

  /** End of the log. */
  get offset(): number {
    return this.#baseOffset + this.#sizeBytes;
  }

  /**
   * Appends whole lines. When the disk is full they are lost, not kept in memory: the log says later how much.
   */
  append(lines: Buffer, time: Date): void {
    if (lines.length === 0) return;
    const data = this.#lostBytes === 0 ? lines : Buffer.concat([this.#lossNote(time), lines]);
    try {
      if (this.#sizeBytes > 0 && this.#sizeBytes + data.length > this.#maximumBytes) this.#rotate();
      this.#write(data);
      this.#lostBytes = 0;
    } catch (error) {
      this.#lostBytes += lines.length;
      this.#lostWhy = (error as NodeJS.ErrnoException).code ?? String(error);
    }
  }

  /** Appends bytes that are lines of a log already, possibly cut anywhere. Unlike append, it throws when it cannot. */
  appendFormatted(data: Buffer): void {
    if (this.#sizeBytes > 0 && this.#sizeBytes + data.length > this.#maximumBytes && this.#endsLine())
      this.#rotate();
    this.#write(data);
  }

  [Symbol.dispose](): void {
    if (this.#descriptor >= 0) closeSync(this.#descriptor);
    this.#descriptor = -1;
  }

  #lossNote(time: Date): Buffer {
    return Buffer.from(
      `e ${time.toISOString()} godwit: ${this.#lostBytes} bytes of output were lost (${this.#lostWhy})\n`,
    );
  }

  #write(data: Buffer): void {
    try {
      for (let done = 0; done < data.length;) {
        done += writeSync(this.#descriptor, data, done, data.length - done);
      }
    } catch (error) {
      ftruncateSync(this.#descriptor, this.#sizeBytes); // no half lines
      throw error;
    }
    this.#sizeBytes += data.length;
  }

  #endsLine(): boolean {
    if (this.#sizeBytes === 0) return true;
    const last = Buffer.alloc(1);
    readSync(this.#descriptor, last, 0, 1, this.#sizeBytes - 1);
    return last[0] === NEWLINE;
  }

  #rotate(): void {
    const next = this.#createNext(this.offset);
    try {
      renameSync(join(this.#dir, CURRENT), join(this.#dir, PREVIOUS));
      renameSync(join(this.#dir, NEXT), join(this.#dir, CURRENT));
    } catch (error) {
      closeSync(next);
      throw error;
    }
    closeSync(this.#descriptor);
    this.#descriptor = next;
    this.#baseOffset = this.offset;
    this.#sizeBytes = 0;
  }

  /** Makes log.next and a log.json that knows it along with the files that exist. */
  #createNext(baseOffset: number): number {
    const path = join(this.#dir, NEXT);
    rmSync(path, { force: true });
    const descriptor = openSync(path, "ax+", 0o600);
    try {
      const files = [{ inode: fstatSync(descriptor).ino, baseOffset }];
      if (this.#descriptor >= 0)
        files.unshift({ inode: fstatSync(this.#descriptor).ino, baseOffset: this.#baseOffset });
      const previous = statSync(join(this.#dir, PREVIOUS), { throwIfNoEntry: false });
      const known = readIndexSync(this.#dir).files.find(({ inode }) => inode === previous?.ino);
      if (known !== undefined) files.unshift(known);
      this.#writeIndex({ files });
      return descriptor;
    } catch (error) {
      closeSync(descriptor);
      rmSync(path, { force: true });
      throw error;
    }
  }

  #writeIndex(index: LogIndex): void {
    const path = join(this.#dir, INDEX);
    const descriptor = openSync(`${path}.new`, "w", 0o600);
    try {
      writeSync(descriptor, JSON.stringify(index));
    } finally {
      closeSync(descriptor);
    }
    renameSync(`${path}.new`, path);
  }

  #recover(baseOffset: number): void {
    const current = join(this.#dir, CURRENT);
    const exists = (name: string): boolean =>
      statSync(join(this.#dir, name), { throwIfNoEntry: false }) !== undefined;
    // A rotation that was cut between its renames has log.next in the index already: it is finished here.
    // One that was cut before them, with log.current still in place, never happened.
    if (!exists(CURRENT) && exists(NEXT) && exists(PREVIOUS)) renameSync(join(this.#dir, NEXT), current);
    rmSync(join(this.#dir, NEXT), { force: true });
    if (!exists(CURRENT)) {
      const previous = statSync(join(this.#dir, PREVIOUS), { throwIfNoEntry: false });
      const known = readIndexSync(this.#dir).files.find(({ inode }) => inode === previous?.ino);
      const begin =
        known === undefined || previous === undefined ? baseOffset : known.baseOffset + previous.size;
      closeSync(this.#createNext(begin));
      renameSync(join(this.#dir, NEXT), current);
    }
    this.#descriptor = openSync(current, "a+", 0o600);
    const { ino, size } = fstatSync(this.#descriptor);
    this.#sizeBytes = size;
    const own = readIndexSync(this.#dir).files.find(({ inode }) => inode === ino);
    if (own !== undefined) this.#baseOffset = own.baseOffset;
    else this.#reindex();
    // Only a machine that lost power leaves a line without its end.
    if (!this.#endsLine()) this.#write(Buffer.from("\n"));
  }

  /** The files were copied here by hand, so that their inodes say nothing: take them in order. */
  #reindex(): void {
    const previous = statSync(join(this.#dir, PREVIOUS), { throwIfNoEntry: false });
    const begin = Math.min(
      ...readIndexSync(this.#dir).files.map((file) => file.baseOffset),
      Number.MAX_SAFE_INTEGER,
    );
    const first = begin === Number.MAX_SAFE_INTEGER ? 0 : begin;
    this.#baseOffset = first + (previous?.size ?? 0);
    this.#writeIndex({
      files: [
        ...(previous === undefined ? [] : [{ inode: previous.ino, baseOffset: first }]),
        { inode: fstatSync(this.#descriptor).ino, baseOffset: this.#baseOffset },
      ],
    });
  }
}

/**
 * Takes over the log of a container that arrives from another host, piece by piece and in order. It begins
 * anew each time: a migration that is tried again brings the whole log again. The shim goes on with it at attach.
 */
export class LogImport implements Disposable {
  readonly #dir: string;
  #writer: LogWriter | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** @param offset of the piece's first byte in the container's whole log */
  append(offset: number, data: Buffer): void {
    // What lies in between was thrown away by the source before it was sent: so much was written meanwhile.
    if (this.#writer !== undefined && offset > this.#writer.offset) this[Symbol.dispose]();
    this.#expect(offset).appendFormatted(data);
  }

  #expect(offset: number): LogWriter {
    this.#writer ??= LogWriter.create(this.#dir, offset);
    if (offset !== this.#writer.offset)
      throw new GodwitError("corrupt", `the log goes on at ${offset}, not at ${this.#writer.offset}`);
    return this.#writer;
  }

  /** @param offset where the log ends; needed where the log had no bytes to bring */
  finish(offset: number): void {
    this.#expect(offset);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#writer?.[Symbol.dispose]();
    this.#writer = undefined;
  }
}
