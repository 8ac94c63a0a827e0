/**
 * Serves the pages of a received image to CRIU's lazy-pages daemon, over the socket that is descriptor 3:
 * `page-server/main.ts IMAGES_DIR HEADER_BYTES`. A process of its own, so that a container whose memory is still
 * being filled does not depend on the agent. It starts before the image is complete, and reads the index (INDEX_FILE)
 * at the first request. It ends with the daemon.
 */
import { openSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";

import { PAGE_BYTES, PageIndex, type RoundIndex } from "./page-index.ts";

/** JSON: for each address space its rounds, the last first; files relative to the images' folder. */
const INDEX_FILE = "page-index.json";
/** As checkpoint/lazy-pages.ts calls it. */
const UNFINISHED = "filling";
const SOCKET = 3;
const GET = 7;
const ADD_PRESENT = (4 << 16) | 6;
const CLOSES = new Set([0x1023, 0x1024]);
const COMMAND_MASK = 0xffff;
const MAX_PAGES = 1024;

const [imagesDir = ".", headerBytes = "32"] = process.argv.slice(2);
const wide = headerBytes === "32";
const header = Buffer.alloc(Number(headerBytes));
const content = Buffer.alloc(MAX_PAGES * PAGE_BYTES);
const files = new Map<string, number>();

function readFully(buffer: Buffer): boolean {
  for (let filled = 0; filled < buffer.byteLength;) {
    const bytes = readSync(SOCKET, buffer, filled, buffer.byteLength - filled, null);
    if (bytes === 0) return false;
    filled += bytes;
  }
  return true;
}

function writeFully(buffer: Buffer): void {
  for (let written = 0; written < buffer.byteLength;) written += writeSync(SOCKET, buffer, written);
}

function loadIndex(): Map<string, PageIndex> {
  const parsed = JSON.parse(readFileSync(`${imagesDir}/${INDEX_FILE}`, "utf8")) as Record<
    string,
    RoundIndex[]
  >;
  // All at once: the folder may be taken away while its files are still needed.
  for (const rounds of Object.values(parsed)) {
    for (const { file } of rounds) files.set(file, openSync(`${imagesDir}/${file}`, "r"));
  }
  return new Map(Object.entries(parsed).map(([space, rounds]) => [space, new PageIndex(rounds)]));
}

let index: Map<string, PageIndex> | undefined;
while (readFully(header)) {
  const operation = header.readUInt32LE(0) & COMMAND_MASK;
  if (CLOSES.has(operation)) {
    // Heard of only when it is done: a daemon that is killed says nothing.
    rmSync(`${imagesDir}/${UNFINISHED}`, { force: true });
    writeFully(Buffer.alloc(4));
    break;
  }
  if (operation !== GET) throw new Error(`command ${operation} is unknown`);
  index ??= loadIndex();
  const asked = wide ? Number(header.readBigUInt64LE(8)) : header.readUInt32LE(4);
  const address = Number(header.readBigUInt64LE(wide ? 16 : 8));
  const task = header.readBigUInt64LE(wide ? 24 : 16);
  const place = index.get(`1-${task}`)?.locate(address, Math.min(asked, MAX_PAGES));
  if (place === undefined) throw new Error(`nobody has the page ${address.toString(16)} of task ${task}`);
  const bytes = place.pages * PAGE_BYTES;
  for (let filled = 0; filled < bytes;) {
    const read = readSync(
      files.get(place.file) ?? -1,
      content,
      filled,
      bytes - filled,
      place.offset + filled,
    );
    if (read === 0) throw new Error(`${place.file} is too short`);
    filled += read;
  }
  header.writeUInt32LE(ADD_PRESENT, 0);
  if (wide) header.writeBigUInt64LE(BigInt(place.pages), 8);
  else header.writeUInt32LE(place.pages, 4);
  writeFully(header);
  writeFully(content.subarray(0, bytes));
}
