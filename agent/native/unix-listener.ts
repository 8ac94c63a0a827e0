import koffi from "koffi";

import { addressOf } from "./sockets.ts";

/** A listening unix socket whose connections pass descriptors, for a program that waits for many things at once. */
const libc = koffi.load(null);
const socket = libc.func("int socket(int domain, int type, int protocol)");
const bind = libc.func("int bind(int fd, const void *address, uint32_t length)");
const listen = libc.func("int listen(int fd, int backlog)");
const accept4 = libc.func("int accept4(int fd, void *address, void *length, int flags)");
const recvmsg = libc.func("intptr_t recvmsg(int fd, void *message, int flags)");
const pollCall = libc.func("int poll(void *descriptors, unsigned long count, int timeout)");

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MAX_PATH_BYTES = 107;
const POLLFD_BYTES = 8;
const POLLIN = 1;

function failed(call: string): Error {
  return new Error(`${call}: errno ${koffi.errno()}`);
}

/** @param path short (the kernel takes 107 bytes); relative to the working folder if it is so written */
export function listenAt(path: string): number {
  const address = Buffer.alloc(2 + MAX_PATH_BYTES + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) throw new Error(`the socket's path ${path} is too long`);
  address.write(path, 2);
  const descriptor = Number(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (descriptor < 0) throw failed("socket");
  if (bind(descriptor, address, 2 + Buffer.byteLength(path) + 1) !== 0) throw failed(`bind(${path})`);
  if (listen(descriptor, 1) !== 0) throw failed(`listen(${path})`);
  return descriptor;
}

/** Waits for a connection. */
export function acceptFrom(listener: number): number {
  const descriptor = Number(accept4(listener, null, null, SOCK_CLOEXEC));
  if (descriptor < 0) throw failed("accept");
  return descriptor;
}

export interface Received {
  readonly bytes: number;
  /** That came with the bytes; the caller's to close. */
  readonly descriptor: number | undefined;
}

/** Waits for at least one byte; 0: the other side is gone. */
export function receiveWithDescriptor(connection: number, buffer: Buffer): Received {
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(BigInt(addressOf(buffer)), 0);
  vector.writeBigUInt64LE(BigInt(buffer.byteLength), 8);
  // Room for one descriptor: cmsghdr (16), the number, padding.
  const control = Buffer.alloc(24);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(BigInt(addressOf(vector)), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(BigInt(addressOf(control)), 32);
  message.writeBigUInt64LE(BigInt(control.byteLength), 40);
  const bytes = Number(recvmsg(connection, message, MSG_CMSG_CLOEXEC));
  if (bytes < 0) throw failed("recvmsg");
  const hasDescriptor =
    message.readBigUInt64LE(40) >= 20n &&
    control.readInt32LE(8) === SOL_SOCKET &&
    control.readInt32LE(12) === SCM_RIGHTS;
  return { bytes, descriptor: hasDescriptor ? control.readInt32LE(16) : undefined };
}

/**
 * Waits, with everything else of this process, until one of the descriptors has something to be read, has ended, or
 * the time is over. Answers those. @param timeoutMs -1: as long as it takes
 */
export function waitForAny(descriptors: readonly number[], timeoutMs: number): Set<number> {
  const entries = Buffer.alloc(Math.max(1, descriptors.length) * POLLFD_BYTES);
  descriptors.forEach((descriptor, index) => {
    entries.writeInt32LE(descriptor, index * POLLFD_BYTES);
    entries.writeInt16LE(POLLIN, index * POLLFD_BYTES + 4);
  });
  const count = Number(pollCall(entries, descriptors.length, timeoutMs));
  // Interrupted by a signal, for which this process does nothing: nothing has come.
  if (count <= 0) return new Set();
  return new Set(descriptors.filter((_, index) => entries.readInt16LE(index * POLLFD_BYTES + 6) !== 0));
}
