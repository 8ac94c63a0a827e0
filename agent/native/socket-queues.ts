import { closeSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { openNetlinkIn, receiveNetlink, sendNetlink } from "./netlink-socket.ts";

/** sock_diag(7): what the kernel knows of sockets, without a walk through its table of all connections. */
const AF_INET = 2;
const AF_INET6 = 10;
const NETLINK_SOCK_DIAG = 4;
const IPPROTO_TCP = 6;
const IPPROTO_UDP = 17;
const SOCK_DIAG_BY_FAMILY = 20;
const NLM_F_REQUEST_DUMP = 0x301;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const HEADER_BYTES = 16;
const REQUEST_BYTES = 56;
/** Of inet_diag_msg: four bytes, the socket's id (48) and its timer (4) come before. */
const RECEIVE_QUEUE_OFFSET = 56;
const LISTEN_STATE = 1 << 10;
const ANY_STATE = 0xffff_ffff;
const ANSWER_BYTES = 64 * 1024;

/** What waits at the listening TCP sockets and at the UDP sockets of one network namespace. */
export class SocketQueues implements Disposable {
  readonly #descriptor: number;
  readonly #answer = Buffer.alloc(ANSWER_BYTES);

  private constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** @param path of a network namespace, such as /run/netns/NAME */
  static openIn(path: string): SocketQueues {
    return new SocketQueues(openNetlinkIn(path, NETLINK_SOCK_DIAG));
  }

  /** Connections that are complete and that no process has accepted yet. */
  connections(): number {
    return (
      this.#waiting(AF_INET, IPPROTO_TCP, LISTEN_STATE) + this.#waiting(AF_INET6, IPPROTO_TCP, LISTEN_STATE)
    );
  }

  /** Bytes of datagrams that no process has read yet, as the kernel counts them. 0 also on a kernel without udp_diag. */
  datagramBytes(): number {
    return this.#waiting(AF_INET, IPPROTO_UDP, ANY_STATE) + this.#waiting(AF_INET6, IPPROTO_UDP, ANY_STATE);
  }

  #waiting(family: number, protocol: number, states: number): number {
    const request = Buffer.alloc(HEADER_BYTES + REQUEST_BYTES);
    request.writeUInt32LE(request.byteLength, 0);
    request.writeUInt16LE(SOCK_DIAG_BY_FAMILY, 4);
    request.writeUInt16LE(NLM_F_REQUEST_DUMP, 6);
    request.writeUInt8(family, HEADER_BYTES);
    request.writeUInt8(protocol, HEADER_BYTES + 1);
    request.writeUInt32LE(states, HEADER_BYTES + 4);
    sendNetlink(this.#descriptor, request);
    let waiting = 0;
    for (;;) {
      const bytes = receiveNetlink(this.#descriptor, this.#answer);
      if (bytes < HEADER_BYTES) throw new GodwitError("internal", "sock_diag gave an answer that is none");
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
