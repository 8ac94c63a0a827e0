import { BLOCK_BYTES, blockLength, type FileBlocks } from "./file-blocks.ts";
import { PATCH, type PaxRecords, SPARSE_MAP, SPARSE_SIZE } from "./pax.ts";
import { encodeRanges, encodeSegments, type Segment } from "./sparse.ts";

/** What turns a file as it was sent into what it is now. */
export interface Patch {
  /** All data in the blocks that changed. */
  readonly segments: readonly Segment[];
  readonly bodyBytes: number;
  readonly pax: PaxRecords;
}

/** Undefined: there is so much to say that the whole file is sent instead. Pure. */
export function patchOf(
  before: FileBlocks,
  now: FileBlocks,
  data: readonly Segment[],
  { sizeBytes }: { readonly sizeBytes: number },
): Patch | undefined {
  const { changed, emptied } = before.compare(now);
  const rangeOf = (block: number): Segment => ({
    offset: block * BLOCK_BYTES,
    length: blockLength(block, sizeBytes),
  });
  const segments = common(data, joined(changed.map(rangeOf)));
  const gone = emptied.filter((block) => block * BLOCK_BYTES < sizeBytes).map(rangeOf);
  // What is a hole within a changed block may have been data.
  const holes = joined([...gone, ...changed.map(rangeOf)].toSorted((a, b) => a.offset - b.offset));
  const cleared = encodeRanges(gapsIn(holes, segments));
  if (cleared === undefined || encodeRanges(segments) === undefined) return undefined;
  return {
    segments,
    bodyBytes: segments.reduce((sum, { length }) => sum + length, 0),
    pax: { [PATCH]: cleared, [SPARSE_MAP]: encodeSegments(segments), [SPARSE_SIZE]: String(sizeBytes) },
  };
}

/** Ranges in order, those joined that touch. */
function joined(ranges: readonly Segment[]): Segment[] {
  const all: { offset: number; length: number }[] = [];
  for (const { offset, length } of ranges) {
    const last = all.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else all.push({ offset, length });
  }
  return all;
}

/** What two lists of ranges, each in order and without overlaps, have in common. */
function common(a: readonly Segment[], b: readonly Segment[]): Segment[] {
  const both: Segment[] = [];
  for (let [left, right] = [0, 0]; ;) {
    const [one, other] = [a[left], b[right]];
    if (one === undefined || other === undefined) return both;
    const offset = Math.max(one.offset, other.offset);
    const [oneEnd, otherEnd] = [one.offset + one.length, other.offset + other.length];
    const length = Math.min(oneEnd, otherEnd) - offset;
    if (length > 0) both.push({ offset, length });
    if (oneEnd <= otherEnd) left += 1;
    else right += 1;
  }
}

/** The parts of ranges in which there is no data; both in order. */
function gapsIn(ranges: readonly Segment[], data: readonly Segment[]): Segment[] {
  const gaps: Segment[] = [];
  let next = 0;
  for (const { offset, length } of ranges) {
    let at = offset;
    const end = offset + length;
    for (; next < data.length && (data[next] as Segment).offset < end; next += 1) {
      const piece = data[next] as Segment;
      if (piece.offset > at) gaps.push({ offset: at, length: piece.offset - at });
      at = piece.offset + piece.length;
    }
    if (at < end) gaps.push({ offset: at, length: end - at });
  }
  return gaps;
}
