import { PAGE_BYTES } from "../native/page-hash.ts";

export interface SplitRun {
  readonly address: number;
  readonly pages: number;
  readonly inside: boolean;
}

/** Splits a run of pages at the borders of ranges, which rise and do not overlap. Pure. */
export function* splitByRanges(
  { address, pages }: { readonly address: number; readonly pages: number },
  ranges: readonly { readonly start: number; readonly end: number }[],
): Generator<SplitRun> {
  const end = address + pages * PAGE_BYTES;
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle]?.end ?? 0) <= address) low = middle + 1;
    else high = middle;
  }
  for (let at = address; at < end;) {
    const range = ranges[low];
    const inside = range !== undefined && range.start <= at;
    const border = range === undefined ? end : Math.min(end, inside ? range.end : range.start);
    yield { address: at, pages: (border - at) / PAGE_BYTES, inside };
    at = border;
    if (inside) low += 1;
  }
}
