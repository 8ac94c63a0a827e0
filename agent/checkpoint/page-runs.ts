import { PAGE_BYTES } from "../native/page-hash.ts";

export interface Pages {
  readonly address: number;
  readonly pages: number;
}

const endOf = ({ address, pages }: Pages): number => address + pages * PAGE_BYTES;

/** Whether each run begins where the one before has ended, or later. */
export function rises(runs: readonly Pages[]): boolean {
  return runs.every((run, index) => index === 0 || endOf(runs[index - 1] as Pages) <= run.address);
}

/** The same pages by rising address, neighbours and what overlaps joined. Pure. */
export function joined(runs: readonly Pages[]): Pages[] {
  const all: { address: number; pages: number }[] = [];
  for (const run of rises(runs) ? runs : runs.toSorted((a, b) => a.address - b.address)) {
    const last = all.at(-1);
    if (last !== undefined && run.address <= endOf(last))
      last.pages = (Math.max(endOf(last), endOf(run)) - last.address) / PAGE_BYTES;
    else all.push({ address: run.address, pages: run.pages });
  }
  return all;
}

/** Both lists rise and do not overlap in themselves; so does the answer, with neighbours joined. Pure. */
export function union(a: readonly Pages[], b: readonly Pages[]): Pages[] {
  const all: { address: number; pages: number }[] = [];
  let left = 0;
  let right = 0;
  while (left < a.length || right < b.length) {
    const fromLeft = (a[left]?.address ?? Infinity) <= (b[right]?.address ?? Infinity);
    const next = fromLeft ? a[left++] : b[right++];
    if (next === undefined) break;
    const last = all.at(-1);
    if (last !== undefined && next.address <= endOf(last)) {
      last.pages = (Math.max(endOf(last), endOf(next)) - last.address) / PAGE_BYTES;
    } else all.push({ address: next.address, pages: next.pages });
  }
  return all;
}

/** The parts of `a` that are not in `b`; both as for `union`. Pure. */
export function without(a: readonly Pages[], b: readonly Pages[]): Pages[] {
  const rest: Pages[] = [];
  let at = 0;
  for (const run of a) {
    let { address } = run;
    const end = endOf(run);
    while (at < b.length && endOf(b[at] as Pages) <= address) at += 1;
    for (let next = at; address < end; next += 1) {
      const hole = b[next];
      if (hole === undefined || hole.address >= end) {
        rest.push({ address, pages: (end - address) / PAGE_BYTES });
        break;
      }
      if (hole.address > address) rest.push({ address, pages: (hole.address - address) / PAGE_BYTES });
      address = Math.max(address, endOf(hole));
    }
  }
  return rest;
}
