import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

import { BinaryWriter } from "@bufbuild/protobuf/wire";

/** An inventory, unlike other images, begins with this one alone. */
const INVENTORY_MAGIC = 0x58313116;
const IMAGE_VERSION = 2;
const MICROSECONDS = 1_000_000;
/** The folder's name inside an image's: CRIU takes it relative to that. */
export const PARENT_FOLDER = "sent-before";

/**
 * What CRIU wants to see of an image that a dump builds upon: of all of it only the inventory, for the time at which
 * it was made. A process that was started later is dumped in full: it has taken the number of one that has ended.
 */
export function makeParentImage(imagesDir: string): void {
  const uptimeSeconds = Number(readFileSync("/proc/uptime", "latin1").split(" ")[0]);
  // inventory_entry: 1 img_version, 8 dump_uptime in microseconds (CRIU's images/inventory.proto).
  const entry = new BinaryWriter()
    .tag(1, 0)
    .uint32(IMAGE_VERSION)
    .tag(8, 0)
    .uint64(Math.floor(uptimeSeconds * MICROSECONDS))
    .finish();
  const head = Buffer.alloc(8);
  head.writeUInt32LE(INVENTORY_MAGIC, 0);
  head.writeUInt32LE(entry.byteLength, 4);
  mkdirSync(`${imagesDir}/${PARENT_FOLDER}`, { mode: 0o700 });
  writeFileSync(`${imagesDir}/${PARENT_FOLDER}/inventory.img`, Buffer.concat([head, entry]), { mode: 0o600 });
}
