import { closeSync, openSync } from "node:fs";

import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";
import { enterNamespace, Namespace } from "./process.ts";

/** sock_diag(7): what the kernel knows of listening sockets, without a walk through its table of all connections. */
const libc = koffi.load("libc.so.6");
const socket = libc.func("int socket(int domain, int type, int protocol)");
const send = libc.func("intptr_t send(int fd, const void *buffer, size_t length, int flags)");
const recv = libc.func("intptr_t recv(int fd, _Out_ uint8_t *buffer, size_t length, int flags)");

const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_SOCK_DIAG = 4;
const IPPROTO_TCP = 6;
const SOCK_DIAG_BY_FAMILY = 20;
const NLM_F_REQUEST_DUMP = 0x301;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const HEADER_BYTES = 16;
const REQUEST_BYTES = 56;
/** Of inet_diag_msg: four bytes, the socket's id (48) and its timer (4) come before. */
const RECEIVE_QUEUE_OFFSET = 56;
const LISTEN_STATE = 1 << 10;
const ANSWER_BYTES = 64 * 1024;

/** The listening TCP sockets of one network namespace. */
export class ListenQueues implements Disposable {
  readonly #descriptor: number;
  readonly #answer = Buffer.alloc(ANSWER_BYTES);

  private constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** @param path of a network namespace, such as /run/netns/NAME */
  static openIn(path: string): ListenQueues {
    const own = openSync("/proc/thread-self/ns/net", "r");
    const other = openSync(path, "r");
    try {
      // Only this thread changes places, and it does nothing else until it is back.
      enterNamespace(other, Namespace.network);
      try {
        const descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
        if (descriptor < 0) throw new GodwitError("internal", `socket(AF_NETLINK): errno ${koffi.errno()}`);
        return new ListenQueues(descriptor);
      } finally {
        enterNamespace(own, Namespace.network);
      }
    } finally {
      closeSync(other);
      closeSync(own);
    }
  }

  /** Connections that are complete and that no process has accepted yet. */
  waiting(): number {
    return this.#waitingOf(AF_INET) + this.#waitingOf(AF_INET6);
  }

  #waitingOf(family: number): number {
    const request = Buffer.alloc(HEADER_BYTES + REQUEST_BYTES);
    request.writeUInt32LE(request.byteLength, 0);
    request.writeUInt16LE(SOCK_DIAG_BY_FAMILY, 4);
    request.writeUInt16LE(NLM_F_REQUEST_DUMP, 6);
    request.writeUInt8(family, HEADER_BYTES);
    request.writeUInt8(IPPROTO_TCP, HEADER_BYTES + 1);
    request.writeUInt32LE(LISTEN_STATE, HEADER_BYTES + 4);
    if (Number(send(this.#descriptor, request, request.byteLength, 0)) !== request.byteLength)
      throw new GodwitError("internal", `sock_diag send: errno ${koffi.errno()}`);
    let waiting = 0;
    for (;;) {
      const bytes = Number(recv(this.#descriptor, this.#answer, ANSWER_BYTES, 0));
      if (bytes < HEADER_BYTES) throw new GodwitError("internal", `sock_diag recv: errno ${koffi.errno()}`);
      for (let at = 0; at + HEADER_BYTES <= bytes;) {
        const length = this.#answer.readUInt32LE(at);
        const type = this.#answer.readUInt16LE(at + 4);
        // A kernel without this family knows of no sockets of it.
        if (type === NLMSG_DONE || type === NLMSG_ERROR || length < HEADER_BYTES) return waiting;
        waiting += this.#answer.readUInt32LE(at + HEADER_BYTES + RECEIVE_QUEUE_OFFSET);
        at += Math.ceil(length / 4) * 4;
      }
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}
