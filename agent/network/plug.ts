import { mustRun } from "../native/command.ts";
import { RouteSocket } from "../native/netlink.ts";
import { SocketQueues } from "../native/socket-queues.ts";
import type { Attachment } from "./attachment.ts";
import { BRIDGE, TUNNEL } from "./overlay.ts";
import { PacketHold } from "./packet-hold.ts";
import { Stragglers } from "./stragglers.ts";

/**
 * What joins a container to the container network and takes it off again. All that takes time is done when it is
 * made: a migration plugs and unplugs while the container stands still.
 */
export class NetworkPlug implements Disposable {
  readonly #host: RouteSocket;
  readonly #inside: RouteSocket;
  readonly #queues: SocketQueues;
  readonly #hostIndex: number;
  readonly #insideIndex: number;
  readonly #bridgeIndex: number;
  readonly #mac: string;
  #stragglers: Stragglers | undefined;

  private constructor(
    sockets: readonly [host: RouteSocket, inside: RouteSocket, queues: SocketQueues],
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
    const queues = opened.use(SocketQueues.openIn(attachment.namespacePath));
    opened.move();
    return new NetworkPlug([host, inside, queues], indexes, mac);
  }

  /**
   * Joins the container to the container network and announces its address to all hosts. What was held for it until now,
   * here or at the host that it comes from, it gets first; answers how many packets that were.
   */
  plugIn(hold?: PacketHold): number {
    // First of all, or what it answers would be lost.
    this.#host.setLink(this.#hostIndex, { master: this.#bridgeIndex });
    // This host's own bridge has to learn it too before anything comes by that way.
    this.announce();
    // What comes in just this moment may come twice: a lost packet would cost a connection a fifth of a second.
    hold?.end();
    const held = hold?.deliver(this.#hostIndex) ?? 0;
    const late = this.#stragglers?.deliver() ?? 0;
    this.dropStragglers();
    return held + late;
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

  /**
   * For a container that is about to stand still: kept until it has its link again, or is gone, or whoever asked for them
   * says that it goes on without having stood still.
   * @param staysHere it goes on here in any case
   */
  async openStragglers(staysHere: boolean): Promise<Stragglers> {
    const tunnelIndex = await indexOf([], TUNNEL);
    this.dropStragglers();
    this.#stragglers = Stragglers.open({
      containerIndex: this.#hostIndex,
      tunnelIndex,
      mac: this.#mac,
      staysHere,
    });
    return this.#stragglers;
  }
  dropStragglers(): void {
    this.#stragglers?.[Symbol.dispose]();
    this.#stragglers = undefined;
  }

  /** Nothing that the container's sockets send leaves the host, nothing reaches them. */
  unplug(): void {
    this.#host.setLink(this.#hostIndex, { master: 0 });
  }

  /** TCP connections to the container that are complete and that it has not accepted yet. */
  waitingConnections(): number {
    return this.#queues.connections();
  }

  /** Of datagrams that no process of the container has read yet, as the kernel counts them. */
  unreadDatagramBytes(): number {
    return this.#queues.datagramBytes();
  }

  [Symbol.dispose](): void {
    this.dropStragglers();
    this.#queues[Symbol.dispose]();
    this.#host[Symbol.dispose]();
    this.#inside[Symbol.dispose]();
  }
}

async function indexOf(where: readonly string[], name: string): Promise<number> {
  const { stdout } = await mustRun("ip", [...where, "-j", "link", "show", "dev", name]);
  return (JSON.parse(stdout) as { ifindex: number }[])[0]?.ifindex ?? 0;
}
