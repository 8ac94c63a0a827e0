import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";
import { withinNetwork } from "./network-namespace.ts";

/** Netlink sockets (netlink(7)), of this process's network namespace or of another. */
const libc = koffi.load("libc.so.6");
const socket = libc.func("int socket(int domain, int type, int protocol)");
const send = libc.func("intptr_t send(int fd, const void *buffer, size_t length, int flags)");
const recv = libc.func("intptr_t recv(int fd, _Out_ uint8_t *buffer, size_t length, int flags)");

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;

/** Answers a descriptor. */
export function openNetlink(protocol: number): number {
  const descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (descriptor < 0) throw new GodwitError("internal", `socket(AF_NETLINK): errno ${koffi.errno()}`);
  return descriptor;
}

/** The same in another namespace, where the socket stays. @param path such as /run/netns/NAME */
export function openNetlinkIn(path: string, protocol: number): number {
  return withinNetwork(path, () => openNetlink(protocol));
}

export function sendNetlink(descriptor: number, message: Buffer): void {
  if (Number(send(descriptor, message, message.byteLength, 0)) !== message.byteLength)
    throw new GodwitError("internal", `netlink send: errno ${koffi.errno()}`);
}

/** Waits for one datagram; answers its bytes, of which at most the buffer's size are kept. */
export function receiveNetlink(descriptor: number, buffer: Buffer): number {
  const bytes = Number(recv(descriptor, buffer, buffer.byteLength, 0));
  if (bytes < 0) throw new GodwitError("internal", `netlink recv: errno ${koffi.errno()}`);
  return bytes;
}
