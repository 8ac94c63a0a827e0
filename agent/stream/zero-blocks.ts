/**
 * Blocks of zeros inside of a chunk are left out of it. They are smaller than a page: pages are not aligned in a chunk,
 * as heads of records lie between them. Pure.
 */
export const ZERO_BLOCK_BYTES = 1024;

const ZEROS = Buffer.alloc(ZERO_BLOCK_BYTES);
/** Below this part of a chunk, copying the rest together costs more than it saves. */
const MIN_PART = 1 / 32;

const blockCount = (rawLength: number): number => Math.ceil(rawLength / ZERO_BLOCK_BYTES);
export const zeroMapBytes = (rawLength: number): number => Math.ceil(blockCount(rawLength) / 8);
const isSet = (map: Uint8Array, block: number): boolean =>
  ((map[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;

export interface Squeezed {
  /** Bit `n & 7` of byte `n >> 3`: block n is zeros and left out. */
  readonly zeroMap: Uint8Array;
  /** All other blocks, in `room`. */
  readonly rest: Uint8Array;
}

/** Undefined when there are too few zeros to be worth it. @param room at least as much as `raw` */
export function squeezeZeros(raw: Buffer, room: Uint8Array): Squeezed | undefined {
  const blocks = blockCount(raw.byteLength);
  const zeroMap = new Uint8Array(zeroMapBytes(raw.byteLength));
  let zeros = 0;
  for (let block = 0; block < blocks; block += 1) {
    const start = block * ZERO_BLOCK_BYTES;
    // Most blocks that are not zero show it in their first word.
    if (start + 4 <= raw.byteLength && raw.readInt32LE(start) !== 0) continue;
    const end = Math.min(raw.byteLength, start + ZERO_BLOCK_BYTES);
    if (ZEROS.compare(raw, start, end, 0, end - start) !== 0) continue;
    zeroMap[block >> 3] = (zeroMap[block >> 3] ?? 0) | (1 << (block & 7));
    zeros += 1;
  }
  if (zeros === 0 || zeros < blocks * MIN_PART) return undefined;
  let filled = 0;
  for (const [start, end] of runs(zeroMap, raw.byteLength)) {
    room.set(raw.subarray(start, end), filled);
    filled += end - start;
  }
  return { zeroMap, rest: room.subarray(0, filled) };
}

/** How many bytes are left when the map's blocks are out. */
export function restLength(zeroMap: Uint8Array, rawLength: number): number {
  let length = 0;
  for (const [start, end] of runs(zeroMap, rawLength)) length += end - start;
  return length;
}

/** Puts the blocks that were left out back. `raw` holds nothing but zeros when it is handed in. */
export function unsqueeze(zeroMap: Uint8Array, rest: Uint8Array, raw: Uint8Array): void {
  let taken = 0;
  for (const [start, end] of runs(zeroMap, raw.byteLength)) {
    raw.set(rest.subarray(taken, taken + end - start), start);
    taken += end - start;
  }
}

/** Where bytes lie that were not left out: from, to. */
function* runs(zeroMap: Uint8Array, rawLength: number): Generator<[number, number]> {
  const blocks = blockCount(rawLength);
  for (let block = 0; block < blocks;) {
    const first = block;
    while (block < blocks && !isSet(zeroMap, block)) block += 1;
    if (block > first) yield [first * ZERO_BLOCK_BYTES, Math.min(rawLength, block * ZERO_BLOCK_BYTES)];
    while (block < blocks && isSet(zeroMap, block)) block += 1;
  }
}
