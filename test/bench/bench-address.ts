import type { BenchHost } from "./bench-host.ts";

/** Outside the cluster's own networks (10.77/16 and the overlay). */
const CONTAINER = "192.0.2.2";
const GATEWAY = "192.0.2.1";
const NETNS = "bench";
const LINK = "bench0";
/** The hosts' own network carries 9000. */
const MTU = "9000";

/**
 * The address of a baseline's container, which goes with it from host to host: a network namespace with a veth on
 * each, and a route on the client's host that says where the address is now.
 */
export class BenchAddress {
  readonly address = CONTAINER;
  readonly netnsPath = `/run/netns/${NETNS}`;
  readonly #client: BenchHost;

  constructor(client: BenchHost) {
    this.#client = client;
  }

  async attach(host: BenchHost): Promise<void> {
    await this.detach(host);
    await host.must(["ip", "netns", "add", NETNS]);
    const peer = ["peer", "name", "eth0", "mtu", MTU, "netns", NETNS];
    await host.must(["ip", "link", "add", LINK, "mtu", MTU, "type", "veth", ...peer]);
    await host.must(["ip", "addr", "add", `${GATEWAY}/24`, "dev", LINK]);
    await host.must(["ip", "link", "set", LINK, "up"]);
    await host.must(["ip", "-n", NETNS, "addr", "add", `${CONTAINER}/24`, "dev", "eth0"]);
    await host.must(["ip", "-n", NETNS, "link", "set", "lo", "up"]);
    await host.must(["ip", "-n", NETNS, "link", "set", "eth0", "up"]);
    await host.must(["ip", "-n", NETNS, "route", "add", "default", "via", GATEWAY]);
    // A packet that comes before its socket is restored must not be answered by a reset: the baselines keep the
    // connection as well as they can. Where there is no iptables, CRIU's own lock has to do.
    const reset = ["-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"];
    await host.run(["ip", "netns", "exec", NETNS, "iptables", "-I", "OUTPUT", ...reset]);
  }

  async detach(host: BenchHost): Promise<void> {
    await host.run(["ip", "link", "del", LINK]);
    await host.run(["ip", "netns", "del", NETNS]);
  }

  /** From now on the client's packets go to this host. */
  async routeTo(host: BenchHost): Promise<void> {
    await this.#client.must(["ip", "route", "replace", `${CONTAINER}/32`, "via", host.underlayAddress]);
  }
}
