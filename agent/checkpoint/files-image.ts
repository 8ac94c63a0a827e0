/**
 * CRIU's image file of open files: two magic numbers, then one message (FileEntry of fdinfo.proto) for each, with a
 * 32-bit length before it. Pure.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";

const COMMON_MAGIC = 0x54564319;
const FILES_MAGIC = 0x56303138;
/** Of FileEntry: the timerfd. Of it: 7 and 8 are what is left in seconds and nanoseconds, 9 and 10 the interval. */
const TIMERFD = 12;

/**
 * The kernel says of a periodic timer that has expired and was not read yet that nothing is left, and CRIU takes
 * that for a timer that is off: it would never tick again. Lets such timers expire at once instead, in place: one
 * byte becomes another. Answers how many there were.
 */
export function keepTimersGoing(image: Uint8Array): number {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (
    image.byteLength < 8 ||
    view.getUint32(0, true) !== COMMON_MAGIC ||
    view.getUint32(4, true) !== FILES_MAGIC
  )
    return 0;
  let corrected = 0;
  for (let at = 8; at + 4 <= image.byteLength;) {
    const length = view.getUint32(at, true);
    const reader = new BinaryReader(image.subarray(at + 4, at + 4 + length));
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      if (field !== TIMERFD || wireType !== 2) {
        reader.skip(wireType);
        continue;
      }
      const timer = reader.bytes();
      if (keepGoing(timer)) corrected += 1;
    }
    at += 4 + length;
  }
  return corrected;
}

/** `timer` is a view of the image. */
function keepGoing(timer: Uint8Array): boolean {
  const reader = new BinaryReader(timer);
  const value = new Map<number, number>();
  let leftAt = -1;
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (wireType !== 0 || field < 7) {
      reader.skip(wireType);
      continue;
    }
    if (field === 8) leftAt = reader.pos;
    value.set(field, Number(reader.uint64()));
  }
  const isZero = (...fields: number[]): boolean => fields.every((field) => (value.get(field) ?? 0) === 0);
  if (leftAt < 0 || !isZero(7, 8) || isZero(9, 10)) return false;
  timer[leftAt] = 1;
  return true;
}
