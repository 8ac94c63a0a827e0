import { mustRun } from "../native/command.ts";
import { ListenQueues } from "../native/listen-queues.ts";
import { RouteSocket } from "../native/netlink.ts";
import type { Attachment } from "./attachment.ts";
import { BRIDGE, TUNNEL } from "./overlay.ts";
import { PacketHold } from "./packet-hold.ts";

/**
 * What joins a container to the container network and takes it off again. All that takes time is done when it is
 * made: a migration plugs and unplugs while the container stands still.
 */
export class NetworkPlug implements Disposable {
  readonly #host: RouteSocket;
  readonly #inside: RouteSocket;
  readonly #queues: ListenQueues;
  readonly #hostIndex: number;
  readonly #insideIndex: number;
  readonly #bridgeIndex: number;
  readonly #mac: string;

  private constructor(
    sockets: readonly [host: RouteSocket, inside: RouteSocket, queues: ListenQueues],
    indexes: readonly [host: number, inside: number, bridge: number],
    mac: string,
  ) {
    [this.#host, this.#inside, this.#queues] = sockets;
    [this.#hostIndex, this.#insideIndex, this.#bridgeIndex] = indexes;
    this.#mac = mac;
  }

  static async open(attachment: Attachment, mac: string): Promise<NetworkPlug> {
    const indexes = await Promise.all([
      indexOf([], attachment.hostInterface),
      indexOf(["-n", attachment.namespace], "eth0"),
      indexOf([], BRIDGE),
    ]);
    using opened = new DisposableStack();
    const host = opened.use(RouteSocket.open());
    const inside = opened.use(RouteSocket.openIn(attachment.namespacePath));
    const queues = opened.use(ListenQueues.openIn(attachment.namespacePath));
    opened.move();
    return new NetworkPlug([host, inside, queues], indexes, mac);
  }

  /**
   * Joins the container to the container network and announces its address to all hosts. What was held for it until now
   * it gets first; answers how many packets that were.
   */
  plugIn(hold?: PacketHold): number {
    hold?.end();
    this.#host.setLink(this.#hostIndex, { master: this.#bridgeIndex });
    const held = hold?.deliver(this.#hostIndex) ?? 0;
    this.announce();
    return held;
  }

  /** Tells all hosts that the container's address is here. */
  announce(): void {
    // Setting the address that is set already makes the kernel send a gratuitous ARP (arp_notify).
    this.#inside.setLink(this.#insideIndex, { address: this.#mac });
  }

  /** For a container that is on its way here. */
  async openHold(address: string): Promise<PacketHold> {
    return PacketHold.open({ tunnelIndex: await indexOf([], TUNNEL), address, mac: this.#mac });
  }

  /** Nothing that the container's sockets send leaves the host, nothing reaches them. */
  unplug(): void {
    this.#host.setLink(this.#hostIndex, { master: 0 });
  }

  /** TCP connections to the container that are complete and that it has not accepted yet. */
  waitingConnections(): number {
    return this.#queues.waiting();
  }

  [Symbol.dispose](): void {
    this.#queues[Symbol.dispose]();
    this.#host[Symbol.dispose]();
    this.#inside[Symbol.dispose]();
  }
}

async function indexOf(where: readonly string[], name: string): Promise<number> {
  const { stdout } = await mustRun("ip", [...where, "-j", "link", "show", "dev", name]);
  return (JSON.parse(stdout) as { ifindex: number }[])[0]?.ifindex ?? 0;
}
