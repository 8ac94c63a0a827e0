import koffi from "koffi";

import type { AddressRange } from "./pagemap-scan.ts";

/** userfaultfd(2) in its asynchronous write-protect mode (Linux 6.7): the kernel itself notes what is written. */
const libc = koffi.load(null);
const ioctl = libc.func("int ioctl(int fd, unsigned long request, void *argument)");
const syscall = libc.func("long syscall(long number, ...)");

export const SYS_USERFAULTFD = 323;
const O_CLOEXEC = 0o2000000;
const UFFD_USER_MODE_ONLY = 1;
/** Does not need a privilege inside the process; asynchronous protection never asks user space anyway. */
export const USERFAULTFD_FLAGS = O_CLOEXEC | UFFD_USER_MODE_ONLY;

const UFFDIO_API = 0xc018_aa3f;
const UFFDIO_REGISTER = 0xc020_aa00;
const UFFD_API = 0xaan;
const FEATURE_WP_UNPOPULATED = 1n << 13n;
const FEATURE_WP_ASYNC = 1n << 15n;
const REGISTER_MODE_WP = 2n;

/** A userfaultfd of this very process, to try what the kernel can. @throws when it has none */
export function openUserfaultfd(): number {
  const descriptor = Number(syscall(SYS_USERFAULTFD, "int", USERFAULTFD_FLAGS));
  if (descriptor < 0) throw new Error(`userfaultfd: errno ${koffi.errno()}`);
  return descriptor;
}

/** Chooses asynchronous write protection. @throws on a kernel without it */
export const enableWriteTracking = (userfaultfd: number): void =>
  chooseFeatures(userfaultfd, FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED);

/** Has to come first. @throws on a kernel without one of them */
export function chooseFeatures(userfaultfd: number, features: bigint): void {
  const api = Buffer.alloc(24);
  api.writeBigUInt64LE(UFFD_API, 0);
  api.writeBigUInt64LE(features, 8);
  if (ioctl(userfaultfd, UFFDIO_API, api) !== 0) throw new Error(`UFFDIO_API: errno ${koffi.errno()}`);
}

/** Whether writes to this mapping can be tracked from now on; again for one that is tracked changes nothing. */
export const trackWrites = (userfaultfd: number, range: AddressRange): boolean =>
  register(userfaultfd, range, REGISTER_MODE_WP);

/** Whether what this mode (linux/userfaultfd.h) is about happens under the descriptor from now on. */
export function register(userfaultfd: number, range: AddressRange, mode: bigint): boolean {
  const argument = Buffer.alloc(32);
  argument.writeBigUInt64LE(BigInt(range.start), 0);
  argument.writeBigUInt64LE(BigInt(range.end - range.start), 8);
  argument.writeBigUInt64LE(mode, 16);
  return ioctl(userfaultfd, UFFDIO_REGISTER, argument) === 0;
}
