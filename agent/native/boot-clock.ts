import koffi from "koffi";

const libc = koffi.load("libc.so.6");
const clockGettime = libc.func("int clock_gettime(int clock, _Out_ uint8_t *time)");
const CLOCK_BOOTTIME = 7;

/** Nanoseconds since the machine was booted: sleep counts, and nobody can set it. */
export function bootTimeNs(): bigint {
  const time = Buffer.alloc(16);
  clockGettime(CLOCK_BOOTTIME, time);
  return time.readBigInt64LE(0) * 1_000_000_000n + time.readBigInt64LE(8);
}
