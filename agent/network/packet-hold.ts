import { GodwitError } from "../../proto/contract/error.ts";
import { addressBytes, macBytes } from "../model/addresses.ts";
import {
  FRAME_BYTES,
  HOLD_BYTES,
  LONGEST_HOLD_MS,
  PacketSocket,
  VNET_HEADER_BYTES,
} from "../native/packet-socket.ts";
import { withoutCopies } from "./datagram-copies.ts";

/** More than a source's sockets can have kept. */
const MOST_FIRST_BYTES = 4 * HOLD_BYTES;
const BROADCAST = Buffer.alloc(6, 0xff);
const ETHERTYPE_ARP = Buffer.from([0x08, 0x06]);
/** Ethernet, IPv4, lengths of their addresses, a request. */
const ARP_REQUEST = Buffer.from([0, 1, 0x08, 0, 6, 4, 0, 1]);

export interface HeldAddress {
  /** Number of the tunnel that leads to the other hosts. */
  readonly tunnelIndex: number;
  /** IPv4, with or without prefix length. */
  readonly address: string;
  readonly mac: string;
}

/**
 * The target's hold on what is sent to a container that stands still on its way here: the packets wait here, and it gets
 * them as soon as its sockets are there. Sent to the source meanwhile they would be lost, and TCP sends what was lost
 * again after 200 ms at the earliest, a new connection's first packet after a second: longer than the container stands
 * still.
 *
 * What is to come here has to be told to the other hosts, and that is all that happens before the switch: were the
 * container to stay at its source, that announces its address again.
 */
export class PacketHold implements Disposable {
  readonly #socket: PacketSocket;
  readonly #mac: Buffer;
  readonly #announcement: Buffer;
  /** What came to the source before anything came here. */
  readonly #first: Buffer[] = [];
  #firstBytes = 0;
  #sinceMs: number | undefined;

  private constructor(socket: PacketSocket, mac: Buffer, address: Buffer) {
    this.#socket = socket;
    this.#mac = mac;
    this.#announcement = Buffer.concat([
      ...[BROADCAST, mac, ETHERTYPE_ARP, ARP_REQUEST],
      ...[mac, address, BROADCAST, address],
    ]);
  }

  /** Holds nothing yet. Of the network namespace that it is called in. */
  static open({ tunnelIndex, address, mac }: HeldAddress): PacketHold {
    return new PacketHold(PacketSocket.open(tunnelIndex, HOLD_BYTES), macBytes(mac), addressBytes(address));
  }

  /**
   * The container stands still at its source: what this host's own containers send it is heard on its way into the
   * tunnel, what comes from others as soon as they have learnt where it goes now. Again when a packet of the source's may
   * have taught them otherwise.
   */
  begin(): void {
    this.#sinceMs ??= performance.now();
    this.#socket.hear(this.#mac);
    // Of a host whose lease has ended the tunnel is down, and nobody can be told: they are when the container runs.
    this.#socket.send(this.#announcement);
  }

  /** A packet that came to the source after the container stood still there (stragglers.ts). */
  take(packet: Buffer): void {
    const isOurs = packet
      .subarray(VNET_HEADER_BYTES, VNET_HEADER_BYTES + this.#mac.byteLength)
      .equals(this.#mac);
    this.#firstBytes += packet.byteLength;
    if (!isOurs || packet.byteLength > FRAME_BYTES || this.#firstBytes > MOST_FIRST_BYTES)
      throw new GodwitError("corrupt", "the image comes with packets that are not the container's");
    this.#first.push(packet);
  }

  /** From when the container is reached otherwise, it would get what comes twice. */
  end(): void {
    this.#socket.hearNothing();
  }

  /** Answers how many packets went to the interface. */
  deliver(interfaceIndex: number): number {
    const heard = this.#socket.take();
    // What this host's containers sent out by the tunnel may have come to the source in time to go with the image.
    const sentHere = heard.filter(({ isOutgoing }) => isOutgoing).map(({ packet }) => packet);
    const first = withoutCopies(this.#first.splice(0), sentHere);
    if (performance.now() - (this.#sinceMs ?? 0) > LONGEST_HOLD_MS) return 0;
    return [...first, ...heard.map(({ packet }) => packet)].filter((packet) =>
      this.#socket.putOn(interfaceIndex, packet),
    ).length;
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}
