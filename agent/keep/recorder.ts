/**
 * The thread that puts pages on the disk, encrypted, and says what their hashes are; see recording.ts. The host's disk
 * gets nothing of a container's memory that can be read: the key is in the agent's memory only.
 */
import { createCipheriv } from "node:crypto";
import { closeSync, openSync, statfsSync, unlinkSync, writeSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";

import { PAGE_BYTES, PageHasher } from "../native/page-hash.ts";
import { DIGEST_WORDS } from "./held-index.ts";
import { type FromRecorder, HELD_CIPHER, type RecorderTerms, type ToRecorder } from "./recorder-messages.ts";

/** What the cipher makes of so much at once is small enough not to be fetched from the kernel each time. */
const PIECE_BYTES = 64 * 1024;
const LOOK_AT_DISK_EVERY = 64;
/** Of the disk, this stays free for others. */
const FREE_PART = 0.1;

const { path, key } = workerData as RecorderTerms;
const cipher = createCipheriv(HELD_CIPHER, key, Buffer.alloc(16));
const file = openSync(path, "wx", 0o600);
let slabs = 0;

const say = (message: FromRecorder, transfer: ArrayBuffer[] = []): void =>
  parentPort?.postMessage(message, transfer);

function hasRoom(): boolean {
  const { bavail, blocks } = statfsSync(path);
  return bavail > blocks * FREE_PART;
}

function record(slab: ArrayBuffer, pages: number): void {
  if (slabs % LOOK_AT_DISK_EVERY === 0 && !hasRoom()) throw new Error("the disk is nearly full");
  slabs += 1;
  const bytes = Buffer.from(slab, 0, pages * PAGE_BYTES);
  const hasher = new PageHasher(bytes);
  const digests = new Uint32Array(pages * DIGEST_WORDS);
  for (let page = 0; page < pages; page += 1) {
    const { a, b, c, d } = hasher.digest(page * PAGE_BYTES);
    digests.set([a, b, c, d], page * DIGEST_WORDS);
  }
  for (let offset = 0; offset < bytes.byteLength; offset += PIECE_BYTES) {
    const piece = cipher.update(bytes.subarray(offset, offset + PIECE_BYTES));
    for (let written = 0; written < piece.byteLength;) written += writeSync(file, piece, written);
  }
  say({ kind: "recorded", slab, digests }, [slab, digests.buffer]);
}

parentPort?.on("message", (message: ToRecorder) => {
  try {
    if (message.kind === "record") {
      record(message.slab, message.pages);
      return;
    }
    closeSync(file);
    parentPort?.close();
  } catch (error) {
    say({ kind: "failed", reason: error instanceof Error ? error.message : String(error) });
    // Its room at once, and not when the move is over: the disk may be what it fails of.
    closeSync(file);
    unlinkSync(path);
    parentPort?.close();
  }
});
