import { macBytes } from "../model/addresses.ts";
import { HOLD_BYTES, LONGEST_HOLD_MS, PacketSocket } from "../native/packet-socket.ts";
import { withoutCopies } from "./datagram-copies.ts";

export interface StragglerPaths {
  /** Number of the host's end of the container's link. */
  readonly containerIndex: number;
  /** Of the tunnel that leads to the other hosts. */
  readonly tunnelIndex: number;
  readonly mac: string;
  /** No other host is to have the container: what its neighbours here send it is kept for it too. */
  readonly staysHere: boolean;
}

/**
 * What still comes to a container's source when the container stands still, until all hosts have learnt where it goes
 * now. It goes with the image, to the target's hold (packet-hold.ts): put on the network once more it would teach the
 * target that whoever sent it is here. What TCP has acknowledged is in the image anyway. A container that goes on where it
 * was gets what came by the tunnel; what reached its link is in its sockets.
 */
export class Stragglers implements Disposable {
  readonly #paths: StragglerPaths;
  readonly #mac: Buffer;
  /** Sockets of a container that stands still go on taking packets, and CRIU takes no datagrams out of them. */
  readonly #atContainer: PacketSocket;
  /** Once the container has no link any more, what comes for it ends here. */
  readonly #atTunnel: PacketSocket;
  /** What came by the tunnel alone, as far as it has been looked at. */
  readonly #late: Buffer[] = [];
  /** When it began to hear the tunnel. */
  #sinceMs: number | undefined;

  private constructor(paths: StragglerPaths, atContainer: PacketSocket, atTunnel: PacketSocket) {
    this.#paths = paths;
    this.#mac = macBytes(paths.mac);
    this.#atContainer = atContainer;
    this.#atTunnel = atTunnel;
  }

  /** Notes nothing yet. Of the network namespace that it is called in. */
  static open(paths: StragglerPaths): Stragglers {
    using opened = new DisposableStack();
    const atContainer = opened.use(PacketSocket.open(paths.containerIndex, HOLD_BYTES));
    const atTunnel = opened.use(PacketSocket.open(paths.tunnelIndex, HOLD_BYTES));
    opened.move();
    return new Stragglers(paths, atContainer, atTunnel);
  }

  /** The container stands still: from here on it reads nothing. */
  standsStill(): void {
    this.#atContainer.hear(this.#mac, "datagrams");
  }

  /** It goes on for a moment, and reads what it was sent. */
  goesOn(): void {
    this.#atContainer.hearNothing();
    this.#atContainer.take();
  }

  /**
   * From here on what comes by the tunnel may not reach the container: it is about to lose its link, or the hosts are told
   * that it is elsewhere, and this host's bridge sends nothing back to where it comes from. Idempotent.
   */
  hearTunnel(): void {
    this.#sinceMs ??= performance.now();
    this.#atTunnel.hear(this.#mac, this.#paths.staysHere ? "all" : "incoming");
  }

  /** For the target. Each a struct virtio_net_hdr and the Ethernet frame, in their order at each place. */
  take(): Buffer[] {
    const inSockets = this.#atContainer.take().map(({ packet }) => packet);
    return [...inSockets, ...this.#takeLate(inSockets)];
  }

  #takeLate(inSockets: readonly Buffer[]): Buffer[] {
    const late = withoutCopies(
      this.#atTunnel.take().map(({ packet }) => packet),
      inSockets,
    );
    this.#late.push(...late);
    return late;
  }

  /** The container has its link again, and goes on here; answers how many packets went to it. */
  deliver(): number {
    this.#atTunnel.hearNothing();
    this.#takeLate(this.#atContainer.take().map(({ packet }) => packet));
    const late = this.#late.splice(0);
    if (performance.now() - (this.#sinceMs ?? 0) > LONGEST_HOLD_MS) return 0;
    return late.filter((packet) => this.#atTunnel.putOn(this.#paths.containerIndex, packet)).length;
  }

  [Symbol.dispose](): void {
    this.#atContainer[Symbol.dispose]();
    this.#atTunnel[Symbol.dispose]();
  }
}
