import { PacketSocket } from "../native/packet-socket.ts";
import { addressBytes, macBytes } from "./addresses.ts";

/** Of packets that wait, as the kernel counts them. A container that gets more in a blackout loses the rest, as on any full link. */
const HOLD_BYTES = 16 * 1024 * 1024;
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
  #holding = false;

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
    if (!this.#holding) this.#socket.hear(this.#mac);
    this.#holding = true;
    this.#socket.send(this.#announcement);
  }

  /** To be called before the container is reached otherwise, or it would get some of them twice. */
  end(): void {
    this.#socket.hearNothing();
  }

  /** Answers how many packets went to the interface. */
  deliver(interfaceIndex: number): number {
    return this.#socket.passTo(interfaceIndex);
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}
