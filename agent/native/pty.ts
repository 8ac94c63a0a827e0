import { closeSync } from "node:fs";

import koffi from "koffi";

import { failed } from "./errno.ts";

/**
 * Pseudo-terminals, which Node has no word for. A pair is opened by ioctl alone, so that neither /dev/pts nor a
 * helper library need be there, and both ends are closed on exec.
 */
const libc = koffi.load("libc.so.6");
const openCall = libc.func("int open(const char *path, int flags)");
const fcntlCall = libc.func("int fcntl(int fd, int command, int argument)");
const ioctlNumber = libc.func("ioctl", "int", ["int", "unsigned long", "long"]);
const ioctlBytes = libc.func("ioctl", "int", ["int", "unsigned long", "_Inout_ uint8_t *"]);
const tcgetattr = libc.func("int tcgetattr(int fd, _Out_ uint8_t *termios)");
const cfmakeraw = libc.func("void cfmakeraw(_Inout_ uint8_t *termios)");
const tcsetattr = libc.func("int tcsetattr(int fd, int actions, const uint8_t *termios)");

const O_RDWR = 2;
const O_NOCTTY = 0o400;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const F_DUPFD_CLOEXEC = 1030;
const TIOCSPTLCK = 0x40045431;
const TIOCGPTPEER = 0x5441;
const TIOCSWINSZ = 0x5414;
/** glibc's struct termios has 60 bytes on every Linux of 64 bits. */
const TERMIOS_BYTES = 64;

export interface TerminalPair {
  /** Non-blocking. */
  readonly master: number;
  readonly slave: number;
}

/** The slave is raw from the start: it echoes and translates nothing of what arrives before its user set it up. */
export function openTerminal(rows: number, columns: number): TerminalPair {
  const master = openCall("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC) as number;
  if (master < 0) throw failed("open /dev/ptmx");
  let slave = -1;
  try {
    const unlocked = Buffer.alloc(4);
    if (ioctlBytes(master, TIOCSPTLCK, unlocked) !== 0) throw failed("ioctl TIOCSPTLCK");
    slave = ioctlNumber(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC) as number;
    if (slave < 0) throw failed("ioctl TIOCGPTPEER");
    const termios = Buffer.alloc(TERMIOS_BYTES);
    if (tcgetattr(slave, termios) !== 0) throw failed("tcgetattr");
    cfmakeraw(termios);
    if (tcsetattr(slave, 0, termios) !== 0) throw failed("tcsetattr");
    setWindowSize(master, rows, columns);
    return { master, slave };
  } catch (error) {
    closeSync(master);
    if (slave >= 0) closeSync(slave);
    throw error;
  }
}

/** In characters; a size that does not fit 16 bits is clamped. */
export function setWindowSize(descriptor: number, rows: number, columns: number): void {
  const size = Buffer.alloc(8);
  size.writeUInt16LE(Math.min(rows, 0xffff), 0);
  size.writeUInt16LE(Math.min(columns, 0xffff), 2);
  if (ioctlBytes(descriptor, TIOCSWINSZ, size) !== 0) throw failed("ioctl TIOCSWINSZ");
}

/** Another descriptor of the same open file, closed on exec. */
export function duplicateDescriptor(descriptor: number): number {
  const copy = fcntlCall(descriptor, F_DUPFD_CLOEXEC, 3) as number;
  if (copy < 0) throw failed("fcntl F_DUPFD_CLOEXEC");
  return copy;
}
