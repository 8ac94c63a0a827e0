import type { AddressRange } from "../native/pagemap-scan.ts";
import { PAGE_BYTES, type RoundIndex } from "./page-index.ts";

/** Allocators keep together what is used together. */
const NEIGHBOURHOOD_BYTES = 512 * 1024;
/** Of a process that writes much: 16 MB. */
const MOST_NEIGHBOURHOODS = 32;

/**
 * Where a process is likely to reach for its memory first when it goes on: around what it has written last. (Of the 32
 * to 54 pages that a redis of 128 or 2,048 MB asks for one after the other before its first answer, 5 to 11 are not in
 * the 3 MB around the 40 pages that it has written since the first round.) Pure.
 * @param rounds of its image; the first one brings all that there is, and says nothing
 * @returns what was written last comes first; each once
 */
export function likelyFirst(rounds: readonly RoundIndex[]): AddressRange[] {
  const starts = new Set<number>();
  for (const start of writtenSinceTheFirst(rounds)) {
    starts.add(start);
    if (starts.size === MOST_NEIGHBOURHOODS) break;
  }
  return Array.from(starts, (start) => ({ start, end: start + NEIGHBOURHOOD_BYTES }));
}

/** First addresses of neighbourhoods: no more are looked at than are asked for, as the container stands still. */
function* writtenSinceTheFirst(rounds: readonly RoundIndex[]): Generator<number> {
  for (const { runs } of rounds.slice(1).toReversed())
    for (const { address, pages } of runs) {
      const end = address + pages * PAGE_BYTES;
      const first = address - (address % NEIGHBOURHOOD_BYTES);
      for (let start = first; start < end; start += NEIGHBOURHOOD_BYTES) yield start;
    }
}
