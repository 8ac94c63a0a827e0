import { GodwitError } from "../../proto/contract/error.ts";
import type { Pages } from "../checkpoint/page-runs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";

const RUN_BYTES = 16;
/** In one record. */
export const MAX_WANTED_RUNS = 4096;
export const MAX_WANTED_BYTES = MAX_WANTED_RUNS * RUN_BYTES;

/** The body of a record that asks for pages. Pure. */
export function encodeWanted(runs: readonly Pages[]): Buffer {
  const body = Buffer.alloc(runs.length * RUN_BYTES);
  runs.forEach(({ address, pages }, index) => {
    body.writeBigUInt64LE(BigInt(address), index * RUN_BYTES);
    body.writeBigUInt64LE(BigInt(pages), index * RUN_BYTES + 8);
  });
  return body;
}

/** @throws GodwitError `corrupt` */
export function decodeWanted(body: Buffer): Pages[] {
  if (body.byteLength % RUN_BYTES !== 0)
    throw new GodwitError("corrupt", "a wish for pages that is cut short");
  const runs: Pages[] = [];
  for (let at = 0; at < body.byteLength; at += RUN_BYTES) {
    const address = Number(body.readBigUInt64LE(at));
    const pages = Number(body.readBigUInt64LE(at + 8));
    if (address % PAGE_BYTES !== 0 || pages < 1 || !Number.isSafeInteger(address + pages * PAGE_BYTES))
      throw new GodwitError("corrupt", "a wish for pages that makes no sense");
    runs.push({ address, pages });
  }
  return runs;
}
