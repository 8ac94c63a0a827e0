import { closeSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { macBytes } from "../model/addresses.ts";
import { openNetlink, openNetlinkIn, receiveNetlink, sendNetlink } from "./netlink-socket.ts";

/**
 * Changes of network interfaces by rtnetlink: some microseconds, where a fork of `ip` costs milliseconds of a
 * container's blackout.
 */
const NETLINK_ROUTE = 0;
const NLMSG_ERROR = 2;
const RTM_SETLINK = 19;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const HEADER_BYTES = 16;
const IFINFOMSG_BYTES = 16;
const IFLA_ADDRESS = 1;
const IFLA_MASTER = 10;

export interface LinkChange {
  /** Number of the bridge that the interface joins; 0: none. */
  readonly master?: number;
  /** Hardware address, such as "02:57:0a:58:00:02". */
  readonly address?: string;
}

/** An rtnetlink socket; it stays in the network namespace in which it was made. */
export class RouteSocket implements Disposable {
  readonly #descriptor: number;
  #sequence = 0;

  private constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  static open(): RouteSocket {
    return new RouteSocket(openNetlink(NETLINK_ROUTE));
  }

  /** @param path of a network namespace, such as /run/netns/NAME */
  static openIn(path: string): RouteSocket {
    return new RouteSocket(openNetlinkIn(path, NETLINK_ROUTE));
  }

  /** Throws when the kernel refuses. */
  setLink(index: number, change: LinkChange): void {
    const attributes: Buffer[] = [];
    if (change.master !== undefined) {
      const value = Buffer.alloc(4);
      value.writeUInt32LE(change.master);
      attributes.push(attribute(IFLA_MASTER, value));
    }
    if (change.address !== undefined) {
      attributes.push(attribute(IFLA_ADDRESS, macBytes(change.address)));
    }
    const body = Buffer.concat([Buffer.alloc(IFINFOMSG_BYTES), ...attributes]);
    body.writeInt32LE(index, 4);
    this.#ask(RTM_SETLINK, body);
  }

  #ask(type: number, body: Buffer): void {
    this.#sequence += 1;
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(HEADER_BYTES + body.byteLength, 0);
    header.writeUInt16LE(type, 4);
    header.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6);
    header.writeUInt32LE(this.#sequence, 8);
    const message = Buffer.concat([header, body]);
    sendNetlink(this.#descriptor, message);
    const answer = Buffer.alloc(4096);
    const bytes = receiveNetlink(this.#descriptor, answer);
    if (bytes < HEADER_BYTES + 4 || answer.readUInt16LE(4) !== NLMSG_ERROR) {
      throw new GodwitError("internal", "rtnetlink gave an answer that is none");
    }
    const error = answer.readInt32LE(HEADER_BYTES);
    if (error !== 0)
      throw new GodwitError("internal", `rtnetlink refused a change of a link: errno ${-error}`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}

function attribute(type: number, value: Buffer): Buffer {
  const padded = Buffer.alloc(4 + Math.ceil(value.byteLength / 4) * 4);
  padded.writeUInt16LE(4 + value.byteLength, 0);
  padded.writeUInt16LE(type, 2);
  value.copy(padded, 4);
  return padded;
}
