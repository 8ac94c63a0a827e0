import { readFile } from "node:fs/promises";
import { networkInterfaces } from "node:os";

import { GodwitError } from "../../proto/contract/error.ts";
import type { NetworkSettings, Peer } from "../../proto/gen/godwit/v1/agent.ts";
import { mustRun, runCommand } from "../native/command.ts";
import { addressBytes } from "../model/addresses.ts";

export const BRIDGE = "gwbr0";
export const TUNNEL = "gwvx0";
/** IANA's VXLAN port. */
const VXLAN_PORT = 4789;
/** Outer Ethernet, IPv4, UDP and VXLAN headers. */
const VXLAN_OVERHEAD_BYTES = 50;
const FLOOD = "00:00:00:00:00:00";

/**
 * This host's part of the container network: a bridge for its containers and a VXLAN tunnel to every other
 * host. Unknown and broadcast frames go to each peer (no multicast needed); where an address lives is learnt
 * from what it sends, so the gratuitous ARP after a move turns every host to the new place.
 */
export class OverlayNetwork {
  readonly #underlayAddress: string;
  #peers = new Set<string>();
  #settings: string | undefined;
  #mtu = 1450;

  constructor(underlayAddress: string) {
    this.#underlayAddress = underlayAddress;
  }

  /** Largest packet that fits the tunnel. */
  get mtu(): number {
    return this.#mtu;
  }

  get ready(): boolean {
    return this.#settings !== undefined;
  }

  /** Makes the host's network as described, changing only what differs. */
  async configure(settings: NetworkSettings, peers: readonly Peer[]): Promise<void> {
    const key = JSON.stringify(settings);
    if (this.#settings !== key) {
      this.#mtu = settings.mtu > 0 ? settings.mtu : (await this.#underlayMtu()) - VXLAN_OVERHEAD_BYTES;
      await this.#build(settings);
      this.#peers = await existingPeers();
      this.#settings = key;
    }
    const wanted = new Set(
      peers.map((peer) => peer.underlayAddress).filter((a) => a !== this.#underlayAddress),
    );
    for (const peer of wanted) {
      if (this.#peers.has(peer)) continue;
      await mustRun("bridge", ["fdb", "append", FLOOD, "dev", TUNNEL, "dst", peer]);
    }
    for (const peer of this.#peers) {
      if (wanted.has(peer)) continue;
      await runCommand("bridge", ["fdb", "del", FLOOD, "dev", TUNNEL, "dst", peer]);
    }
    this.#peers = wanted;
  }

  async #build(settings: NetworkSettings): Promise<void> {
    // Both may exist already: an agent that restarts finds its containers plugged in.
    await runCommand("ip", ["link", "add", BRIDGE, "type", "bridge"]);
    await runCommand("ip", [
      ...["link", "add", TUNNEL, "type", "vxlan", "id", String(settings.vni)],
      ...["local", this.#underlayAddress, "dstport", String(VXLAN_PORT)],
    ]);
    await mustRun("ip", ["-batch", "-"], {
      input: [
        // A bridge takes the lowest address among its ports unless it is given one: it would change with every
        // container that comes or goes, and neighbours would send to a container's port.
        `link set ${BRIDGE} address ${macOf(settings.nodeAddress)} mtu ${this.#mtu} addrgenmode none up`,
        `link set ${TUNNEL} mtu ${this.#mtu} addrgenmode none master ${BRIDGE} up`,
        `addr replace ${settings.nodeAddress} dev ${BRIDGE}`,
      ].join("\n"),
    });
  }

  async #underlayMtu(): Promise<number> {
    for (const [name, addresses] of Object.entries(networkInterfaces())) {
      if (addresses?.some((entry) => entry.address === this.#underlayAddress) !== true) continue;
      return Number(await readFile(`/sys/class/net/${name}/mtu`, "utf8"));
    }
    throw new GodwitError(
      "invalid",
      `no interface of this host has the underlay address ${this.#underlayAddress}; correct underlayAddress in the agent's configuration`,
    );
  }

  /** Takes the bridge and the tunnel away. */
  async remove(): Promise<void> {
    await runCommand("ip", ["link", "del", TUNNEL]);
    await runCommand("ip", ["link", "del", BRIDGE]);
  }
}

/** The node's own hardware address on the container network, made from its IPv4 address there. */
function macOf(addressWithPrefix: string): string {
  const bytes = [0x02, 0x57, ...addressBytes(addressWithPrefix)];
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}

async function existingPeers(): Promise<Set<string>> {
  const { stdout } = await mustRun("bridge", ["fdb", "show", "dev", TUNNEL]);
  const peers = new Set<string>();
  for (const line of stdout.split("\n")) {
    const destination = new RegExp(`^${FLOOD} dst (\\S+)`).exec(line)?.[1];
    if (destination !== undefined) peers.add(destination);
  }
  return peers;
}
