import { GodwitError } from "../../proto/contract/error.ts";

/** A run of data in a file; what lies between runs is a hole. */
export interface Segment {
  readonly offset: number;
  readonly length: number;
}

/** Keeps the map within a PAX header: a file in more pieces loses its smallest holes. */
const MAX_SEGMENTS = 16_384;

/** Joins runs over the smallest holes until there are at most `maximum`. Runs are in order. */
export function boundSegments(segments: readonly Segment[], maximum = MAX_SEGMENTS): Segment[] {
  let joined = [...segments];
  for (let holeBytes = 4096; joined.length > maximum; holeBytes *= 2) {
    const next: Segment[] = [];
    for (const segment of joined) {
      const previous = next.at(-1);
      if (previous !== undefined && segment.offset - (previous.offset + previous.length) <= holeBytes) {
        next[next.length - 1] = {
          offset: previous.offset,
          length: segment.offset + segment.length - previous.offset,
        };
      } else next.push(segment);
    }
    joined = next;
  }
  return joined;
}

export const encodeSegments = (segments: readonly Segment[]): string =>
  segments.map(({ offset, length }) => `${offset},${length}`).join(",");

/** The same without a body: undefined where there are too many. */
export function encodeRanges(ranges: readonly Segment[]): string | undefined {
  return ranges.length > MAX_SEGMENTS ? undefined : encodeSegments(ranges);
}

/** Checks that ranges are in order and within the file. */
export function decodeRanges(text: string, sizeBytes: number): Segment[] {
  const numbers = text === "" ? [] : text.split(",").map(Number);
  const total = numbers.reduce((sum, length, index) => sum + (index % 2 === 0 ? 0 : length), 0);
  return decodeSegments(text, sizeBytes, total);
}

/** Checks that the runs are in order, within the file, and as long in all as the entry's body. */
export function decodeSegments(text: string, sizeBytes: number, bodyBytes: number): Segment[] {
  const corrupt = (): GodwitError =>
    new GodwitError("corrupt", "a tar entry has a malformed map of its holes");
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) throw corrupt();
  const numbers = text === "" ? [] : text.split(",").map(Number);
  if (numbers.length % 2 !== 0 || numbers.length / 2 > MAX_SEGMENTS) throw corrupt();
  const segments: Segment[] = [];
  let [end, total] = [0, 0];
  for (let index = 0; index < numbers.length; index += 2) {
    const [offset, length] = [numbers[index] ?? Number.NaN, numbers[index + 1] ?? Number.NaN];
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || length <= 0 || offset < end)
      throw corrupt();
    segments.push({ offset, length });
    end = offset + length;
    total += length;
  }
  if (end > sizeBytes || total !== bodyBytes) throw corrupt();
  return segments;
}
