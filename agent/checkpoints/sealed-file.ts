import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, readSync, writeSync } from "node:fs";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";

import { GodwitError } from "../../proto/contract/error.ts";

/**
 * A stored checkpoint: the image stream of a move (proto/godwit/v1/stream.proto), sealed. After the magic and a salt,
 * from which and the checkpoint's key the file's own is derived (a second try never seals anything under the first
 * one's), come frames: length (4 bytes, little-endian) | AES-256-GCM of (form (1 byte) | content) | tag (16). The nonce is
 * the frame's number and whether it is the last one, so nothing can be left out, put in another order or cut off.
 *
 * A checkpoint that builds upon another one means that very file: the file's own key is derived from the other one's
 * salt as well, so that it opens beside no other, be it of the same container and as genuine.
 */
const MAGIC = Buffer.from("godwit checkpoint 1\n");
const SALT_BYTES = 16;
const TAG_BYTES = 16;
const FRAME_BYTES = 1024 * 1024;
const CIPHER = "aes-256-gcm";
const Form = { plain: 0, zstd: 1 } as const;
const MOST_FRAME_BYTES = FRAME_BYTES + 64 * 1024;

/** That it builds upon none. */
export const NO_BASE = new Uint8Array(0);

const fileKey = (key: Uint8Array, salt: Uint8Array, base: Uint8Array): Buffer =>
  Buffer.from(
    hkdfSync("sha256", key, salt, Buffer.concat([Buffer.from("godwit checkpoint file"), base]), 32),
  );

function nonceOf(number: number, isLast: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64BE(BigInt(number), 0);
  nonce.writeUInt8(isLast ? 1 : 0, 11);
  return nonce;
}

/** What is put aside at most. */
const MOST_FRAMES_ASIDE = 16;

/** Writes one. Synchronous: it goes to the page cache, at times while a container stands still. */
export class SealedFileWriter implements Disposable {
  readonly #descriptor: number;
  readonly #key: Buffer;
  readonly #frame = Buffer.allocUnsafe(FRAME_BYTES);
  #used = 0;
  #number = 0;
  #closed = false;
  /** Frames that are sealed later. */
  #aside: Buffer[] | undefined;
  rawBytes = 0;
  sizeBytes = 0;
  /** By which those that build upon it name it. */
  readonly salt = randomBytes(SALT_BYTES);

  /** @param base salt of the file that it builds upon */
  constructor(path: string, key: Uint8Array, base: Uint8Array = NO_BASE) {
    this.#descriptor = openSync(path, "w", 0o600);
    this.#key = fileKey(key, this.salt, base);
    this.#put(Buffer.concat([MAGIC, this.salt]));
  }

  write(bytes: Uint8Array): void {
    this.rawBytes += bytes.byteLength;
    for (let offset = 0; offset < bytes.byteLength;) {
      const part = bytes.subarray(offset, offset + FRAME_BYTES - this.#used);
      this.#frame.set(part, this.#used);
      this.#used += part.byteLength;
      offset += part.byteLength;
      if (this.#used === FRAME_BYTES) this.#filled();
    }
  }

  /** A container stands still: what comes now is only put aside, as long as it is little, and sealed in the end. */
  hurry(): void {
    this.#aside ??= [];
  }

  /** On the disk when it returns. */
  finish(): void {
    for (const content of this.#aside ?? []) this.#seal(content, true, false);
    this.#seal(this.#frame.subarray(0, this.#used), true, true);
    fsyncSync(this.#descriptor);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#descriptor);
  }

  #filled(): void {
    this.#used = 0;
    if (this.#aside === undefined) {
      this.#seal(this.#frame, true, false);
      return;
    }
    this.#aside.push(Buffer.from(this.#frame));
    const oldest = this.#aside.length > MOST_FRAMES_ASIDE ? this.#aside.shift() : undefined;
    if (oldest !== undefined) this.#seal(oldest, false, false);
  }

  #seal(content: Buffer, compresses: boolean, isLast: boolean): void {
    const packed = compresses ? zstdCompressSync(content) : content;
    const form = packed.byteLength < content.byteLength ? Form.zstd : Form.plain;
    const cipher = createCipheriv(CIPHER, this.#key, nonceOf(this.#number, isLast));
    const sealed = [
      cipher.update(Buffer.from([form])),
      cipher.update(form === Form.zstd ? packed : content),
      cipher.final(),
      cipher.getAuthTag(),
    ];
    const length = Buffer.alloc(4);
    length.writeUInt32LE(sealed.reduce((sum, { byteLength }) => sum + byteLength, 0));
    this.#put(length);
    for (const piece of sealed) this.#put(piece);
    this.#number += 1;
  }

  #put(bytes: Uint8Array): void {
    for (let written = 0; written < bytes.byteLength;)
      written += writeSync(this.#descriptor, bytes, written, bytes.byteLength - written);
    this.sizeBytes += bytes.byteLength;
  }
}

const corrupt = (path: string, cause?: unknown): GodwitError =>
  new GodwitError(
    "corrupt",
    `the stored checkpoint ${path} is damaged, was cut off, or does not belong to what lies beside it`,
    { cause },
  );

/** A stored checkpoint, the key that it was sealed with, and the salt of the one that it builds upon. */
export interface SealedFile {
  readonly path: string;
  readonly key: Uint8Array;
  readonly base: Uint8Array;
}

/**
 * What was written, in order. Throws `corrupt` at the first frame that is not what it was.
 * @param named told the file's own salt, which proves nothing before the first frame has come
 */
export async function* readSealedFile(
  { base, key, path }: SealedFile,
  named: (salt: Uint8Array) => void = () => undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const descriptor = openSync(path, "r");
  try {
    const take = (length: number): Buffer => {
      const bytes = Buffer.allocUnsafe(length);
      for (let filled = 0; filled < length;) {
        const got = readSync(descriptor, bytes, filled, length - filled, null);
        if (got === 0) throw corrupt(path);
        filled += got;
      }
      return bytes;
    };
    if (!take(MAGIC.byteLength).equals(MAGIC)) throw corrupt(path);
    const salt = take(SALT_BYTES);
    named(salt);
    const own = fileKey(key, salt, base);
    for (let number = 0; ; number += 1) {
      const length = take(4).readUInt32LE();
      if (length <= TAG_BYTES || length > MOST_FRAME_BYTES) throw corrupt(path);
      const sealed = take(length);
      const middle = open(own, number, false, sealed);
      const opened = middle ?? open(own, number, true, sealed);
      if (opened === undefined) throw corrupt(path);
      yield opened;
      if (middle === undefined) break;
      // Others go on in between: a large file takes a while.
      await new Promise(setImmediate);
    }
    if (readSync(descriptor, Buffer.alloc(1), 0, 1, null) !== 0) throw corrupt(path);
  } finally {
    closeSync(descriptor);
  }
}

/** Undefined: it is not this frame. */
function open(key: Buffer, number: number, isLast: boolean, sealed: Buffer): Uint8Array | undefined {
  const decipher = createDecipheriv(CIPHER, key, nonceOf(number, isLast));
  decipher.setAuthTag(sealed.subarray(sealed.byteLength - TAG_BYTES));
  const opened = decipher.update(sealed.subarray(0, sealed.byteLength - TAG_BYTES));
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  const content = opened.subarray(1);
  return opened[0] === Form.zstd ? zstdDecompressSync(content, { maxOutputLength: FRAME_BYTES }) : content;
}
