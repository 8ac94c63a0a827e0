import koffi from "koffi";

import { failed } from "./errno.ts";
import { readable, wake } from "./readiness.ts";

/**
 * System calls on sockets and pipes that Node has no word for. CRIU's RPC needs a SOCK_SEQPACKET pair (one
 * message a packet), and a container's output needs pipes whose ends can be handed to other processes.
 */
const libc = koffi.load("libc.so.6");
const socketpair = libc.func("int socketpair(int domain, int type, int protocol, _Out_ int *pair)");
const pipe2 = libc.func("int pipe2(_Out_ int *pair, int flags)");
const sendSync = libc.func("intptr_t send(int fd, const void *buffer, size_t length, int flags)");
const recv = libc.func("intptr_t recv(int fd, _Out_ uint8_t *buffer, size_t length, int flags)");
const shutdown = libc.func("int shutdown(int fd, int how)");

const recvInto = libc.func("intptr_t recv(int fd, uintptr_t buffer, size_t length, int flags)");
const setsockopt = libc.func(
  "int setsockopt(int fd, int level, int name, const void *value, uint32_t length)",
);

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SO_SNDBUFFORCE = 32;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;
const O_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SHUT_RDWR = 2;

/** Two connected descriptors, one message a packet, both closed on exec. */
export function openPacketPair(): [number, number] {
  const pair = [0, 0];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) !== 0) throw failed("socketpair");
  return [pair[0] as number, pair[1] as number];
}

/** Two connected stream descriptors, with room for `bufferBytes` on the way. */
export function openStreamPair(bufferBytes: number): [number, number] {
  const pair = [0, 0];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) !== 0) throw failed("socketpair");
  const size = Buffer.alloc(4);
  size.writeInt32LE(bufferBytes);
  for (const descriptor of pair) setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, size, 4);
  return [pair[0] as number, pair[1] as number];
}

/** A pipe's read and write ends, both closed on exec. */
export function openPipe(): [read: number, write: number] {
  const pair = [0, 0];
  if (pipe2(pair, O_CLOEXEC) !== 0) throw failed("pipe2");
  return [pair[0] as number, pair[1] as number];
}

export function sendPacket(descriptor: number, packet: Uint8Array): void {
  const sent = Number(sendSync(descriptor, packet, packet.byteLength, MSG_NOSIGNAL));
  if (sent !== packet.byteLength) throw failed("send");
}

/** Waits for a packet; an empty answer means that the other side is gone. */
export async function receivePacket(descriptor: number, maximumBytes: number): Promise<Uint8Array> {
  await readable(descriptor);
  const buffer = new Uint8Array(maximumBytes);
  const received = Number(recv(descriptor, buffer, maximumBytes, MSG_DONTWAIT));
  if (received < 0) throw failed("recv");
  return buffer.subarray(0, received);
}

/** Where a buffer lies, for receiveInto. It must not be resized or transferred. */
export function addressOf(buffer: Uint8Array): number {
  return Number(koffi.address(buffer));
}

/**
 * Waits for at least one byte; 0 means that the other side is gone. A thread of libuv's pool copies what there is: it may
 * be megabytes.
 */
export async function receiveInto(
  descriptor: number,
  address: number,
  maximumBytes: number,
): Promise<number> {
  const there = await takeInto(descriptor, address, maximumBytes);
  if (there >= 0) return there;
  await readable(descriptor);
  const received = Number(recvInto(descriptor, address, maximumBytes, MSG_DONTWAIT));
  if (received < 0) throw failed("recv");
  return received;
}

/** Negative: nothing is there. */
function takeInto(descriptor: number, address: number, maximumBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    recvInto.async(
      descriptor,
      address,
      maximumBytes,
      MSG_DONTWAIT,
      (error: Error | null, result: number | bigint) => {
        if (error === null) resolve(Number(result));
        else reject(error);
      },
    );
  });
}

/** Wakes who waits on this descriptor: closing alone would not. */
export function shutdownSocket(descriptor: number): void {
  shutdown(descriptor, SHUT_RDWR);
  wake(descriptor);
}
