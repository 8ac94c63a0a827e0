import type { Pages } from "../checkpoint/page-runs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { AddressRange, PagemapScanner } from "../native/pagemap-scan.ts";

export interface Looked {
  /** Pages with content of their own, by rising address, neighbours joined. */
  readonly there: readonly Pages[];
  /** Of these those that are not write-protected. */
  readonly written: readonly Pages[];
}

/**
 * Looks at a part of a frozen process's memory. `turn` is awaited now and then; not for each run of pages, of which there
 * may be tens of thousands.
 */
export async function lookAt(
  scanner: PagemapScanner,
  pagemap: number,
  range: AddressRange,
  turn: () => Promise<void>,
): Promise<Looked> {
  const there: { address: number; pages: number }[] = [];
  const written: Pages[] = [];
  let reached = -1;
  const take = (address: number, end: number, isWritten: boolean): void => {
    const pages = (end - address) / PAGE_BYTES;
    const last = there.at(-1);
    if (last !== undefined && reached === address) last.pages += pages;
    else there.push({ address, pages });
    reached = end;
    if (isWritten) written.push({ address, pages });
  };
  for (const _ of scanner.steps(pagemap, { ...range, pages: "all" }, take)) await turn();
  return { there, written };
}
