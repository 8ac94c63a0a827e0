import { PAGE_BYTES } from "../native/page-hash.ts";

export interface Pages {
  readonly address: number;
  readonly pages: number;
}

const endOf = ({ address, pages }: Pages): number => address + pages * PAGE_BYTES;

/** How many there are. */
export const pagesOf = (runs: readonly Pages[]): number => runs.reduce((sum, { pages }) => sum + pages, 0);

/** Whether each run begins where the one before has ended, or later. */
export function rises(runs: readonly Pages[]): boolean {
  return runs.every((run, index) => index === 0 || endOf(runs[index - 1] as Pages) <= run.address);
}

/** The same pages by rising address, neighbours and what overlaps joined. Pure. */
export function joined(runs: readonly Pages[]): Pages[] {
  const all: Pages[] = [];
  for (const run of rises(runs) ? runs : runs.toSorted((a, b) => a.address - b.address)) append(all, run);
  return all;
}

/** Behind all others, or joined with the last of them. What is joined with nothing is the same object as before. */
function append(all: Pages[], run: Pages): void {
  const last = all.at(-1);
  if (last === undefined || endOf(last) < run.address) all.push(run);
  else all[all.length - 1] = spanning(last, run);
}

const spanning = (first: Pages, second: Pages): Pages => ({
  address: first.address,
  pages: (Math.max(endOf(first), endOf(second)) - first.address) / PAGE_BYTES,
});

/** Both lists rise and do not overlap in themselves; so does the answer, with neighbours joined unless `b` is empty. Pure. */
export function union(a: readonly Pages[], b: readonly Pages[]): readonly Pages[] {
  if (b.length === 0) return a;
  const all: Pages[] = [];
  let left = 0;
  let right = 0;
  while (left < a.length || right < b.length) {
    const fromLeft = (a[left]?.address ?? Infinity) <= (b[right]?.address ?? Infinity);
    const next = fromLeft ? a[left++] : b[right++];
    if (next === undefined) break;
    append(all, next);
  }
  return all;
}

/** The parts of `a` that are not in `b`; both as for `union`. Pure. */
export function without(a: readonly Pages[], b: readonly Pages[]): readonly Pages[] {
  if (b.length === 0) return a;
  const rest: Pages[] = [];
  let at = 0;
  for (const run of a) {
    let { address } = run;
    const end = endOf(run);
    while (at < b.length && endOf(b[at] as Pages) <= address) at += 1;
    for (let next = at; address < end; next += 1) {
      const hole = b[next];
      if (hole === undefined || hole.address >= end) {
        if (address === run.address) rest.push(run);
        else rest.push({ address, pages: (end - address) / PAGE_BYTES });
        break;
      }
      if (hole.address > address) rest.push({ address, pages: (hole.address - address) / PAGE_BYTES });
      address = Math.max(address, endOf(hole));
    }
  }
  return rest;
}
