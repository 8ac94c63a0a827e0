import { closeSync } from "node:fs";
import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";

import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";
import { withinNetwork } from "./network-namespace.ts";

/**
 * TCP connections to 127.0.0.1 of another network namespace. Node opens its sockets on its own time, so that none of
 * them could be put there.
 */
const libc = koffi.load("libc.so.6");
const socket = libc.func("int socket(int domain, int type, int protocol)");
const connect = libc.func("int connect(int fd, const void *address, uint32_t length)");
const poll = libc.func("int poll(_Inout_ uint8_t *fds, unsigned long count, int timeoutMs)");
const getsockopt = libc.func(
  "int getsockopt(int fd, int level, int name, _Out_ uint8_t *value, _Inout_ uint32_t *length)",
);

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const POLLOUT = 4;
const LOOK_AGAIN_MS = 5;

function errorName(errno: number): string {
  return Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
}

/**
 * A connected, non-blocking descriptor, which is the caller's to close. Throws `unavailable` when nobody listens there,
 * and what the signal says when it aborts.
 */
export async function connectLoopback(
  networkPath: string,
  port: number,
  signal: AbortSignal,
): Promise<number> {
  const descriptor = withinNetwork(networkPath, () =>
    socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
  ) as number;
  if (descriptor < 0) throw new GodwitError("internal", `socket(AF_INET): ${errorName(koffi.errno())}`);
  try {
    // struct sockaddr_in: family in host order, port and address in network order.
    const address = Buffer.alloc(16);
    address.writeUInt16LE(AF_INET, 0);
    address.writeUInt16BE(port, 2);
    address.set([127, 0, 0, 1], 4);
    if (connect(descriptor, address, address.length) !== 0) {
      const errno = koffi.errno();
      if (errno !== constants.errno.EINPROGRESS) throw refused(port, errno);
      await connected(descriptor, port, signal);
    }
    return descriptor;
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

const refused = (port: number, errno: number): GodwitError =>
  new GodwitError("unavailable", `nothing answers on port ${port}: ${errorName(errno)}`);

/** Within one host it takes no time, or as long as the listener's queue is full. */
async function connected(descriptor: number, port: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    // struct pollfd: descriptor, events, returned events.
    const look = Buffer.alloc(8);
    look.writeInt32LE(descriptor, 0);
    look.writeInt16LE(POLLOUT, 4);
    if (poll(look, 1, 0) > 0) break;
    await delay(LOOK_AGAIN_MS, undefined, { signal });
  }
  const value = Buffer.alloc(4);
  if (getsockopt(descriptor, SOL_SOCKET, SO_ERROR, value, [4]) !== 0)
    throw new GodwitError("internal", `getsockopt(SO_ERROR): ${errorName(koffi.errno())}`);
  const errno = value.readInt32LE();
  if (errno !== 0) throw refused(port, errno);
}
