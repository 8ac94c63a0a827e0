import { PAGE_BYTES } from "../native/page-hash.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import type { Pages } from "./page-runs.ts";
import { splitByRanges } from "./split-ranges.ts";

export interface LazySplit {
  /** One run for each range with any pages, from the first to the last of them. */
  readonly lazy: readonly Pages[];
  readonly rest: readonly Pages[];
}

/**
 * What CRIU needs to know of memory that is filled later: in which mappings there is some, not where in them. It reads
 * a list of pages entry by entry, so that one entry a mapping instead of thousands is time won while a container stands
 * still. All by rising address. Pure.
 */
export function splitLazy(runs: readonly Pages[], ranges: readonly AddressRange[]): LazySplit {
  const lazy: { address: number; pages: number }[] = [];
  const rest: Pages[] = [];
  let range = 0;
  let open = -1;
  for (const run of runs) {
    const end = run.address + run.pages * PAGE_BYTES;
    while ((ranges[range]?.end ?? Infinity) <= run.address) range += 1;
    const here = ranges[range];
    if (here === undefined || end <= here.start) {
      rest.push(run);
      continue;
    }
    const last = lazy.at(-1);
    if (open === range && last !== undefined && end <= here.end) {
      last.pages = (end - last.address) / PAGE_BYTES;
      continue;
    }
    // At a border, which few runs are.
    for (const { address, pages, inside } of splitByRanges(run, ranges)) {
      if (!inside) {
        rest.push({ address, pages });
        continue;
      }
      while ((ranges[range]?.end ?? Infinity) <= address) range += 1;
      const before = lazy.at(-1);
      if (open === range && before !== undefined)
        before.pages = (address - before.address) / PAGE_BYTES + pages;
      else lazy.push({ address, pages });
      open = range;
    }
  }
  return { lazy, rest };
}
