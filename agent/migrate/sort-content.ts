import { open, rename } from "node:fs/promises";

import { joined, type Pages } from "../checkpoint/page-runs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";

/**
 * Brings the pages of a file into the order of their addresses, which is the order in which CRIU restores them. A page
 * that came twice is taken as it came last.
 * @param runs in the file's order
 */
export async function sortContent(file: string, runs: readonly Pages[]): Promise<Pages[]> {
  const offsets = new Map<number, number>();
  let offset = 0;
  for (const { address, pages } of runs) {
    for (let index = 0; index < pages; index += 1) {
      offsets.set(address + index * PAGE_BYTES, offset);
      offset += PAGE_BYTES;
    }
  }
  const sorted = joined([...offsets.keys()].map((address) => ({ address, pages: 1 })));
  const scratch = `${file}.sorted`;
  await using source = await open(file, "r");
  await using target = await open(scratch, "wx", 0o600);
  for (const { address, pages } of sorted) {
    for (let index = 0; index < pages;) {
      const from = offsets.get(address + index * PAGE_BYTES) ?? 0;
      let count = 1;
      while (
        index + count < pages &&
        count < MAX_COPIED_PAGES &&
        offsets.get(address + (index + count) * PAGE_BYTES) === from + count * PAGE_BYTES
      )
        count += 1;
      const { buffer, bytesRead } = await source.read(
        Buffer.allocUnsafe(count * PAGE_BYTES),
        0,
        count * PAGE_BYTES,
        from,
      );
      await target.writeFile(buffer.subarray(0, bytesRead));
      index += count;
    }
  }
  await rename(scratch, file);
  return sorted;
}

const MAX_COPIED_PAGES = 256;
