/** Published ports as nftables rules. Pure. */
import { type DesiredAllocation, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { DesiredState } from "../../proto/gen/godwit/v1/log.ts";

export const PORT_TABLE = "godwit-publish";

export interface PortForward {
  readonly protocol: "tcp" | "udp";
  readonly hostPort: number;
  /** IPv4 on the container network, without prefix length. */
  readonly address: string;
  readonly containerPort: number;
}

/** The container is this host's, or is about to be: its address is reached from every host, wherever it is. */
const leadsTo = ({ desired, migration, role }: DesiredAllocation): boolean => {
  if (desired !== DesiredState.RUNNING) return false;
  if (role === Role.SOURCE) return migration?.switched !== true;
  return role === Role.OWNER || role === Role.TARGET;
};

const isPort = (port: number): boolean => Number.isInteger(port) && port > 0 && port < 65_536;
const ADDRESS = /^\d{1,3}(\.\d{1,3}){3}$/;

/** In one order, so that equal ones make equal rules. */
export function forwardsOf(allocations: readonly DesiredAllocation[]): PortForward[] {
  const forwards = allocations.filter(leadsTo).flatMap(({ address, spec }) =>
    (spec?.ports ?? []).map(({ containerPort, hostPort, protocol }): PortForward => ({
      protocol: protocol === "udp" ? "udp" : "tcp",
      hostPort,
      address: address.split("/", 1)[0] ?? "",
      containerPort,
    })),
  );
  return forwards
    .filter(
      ({ address, containerPort, hostPort }) =>
        ADDRESS.test(address) && isPort(hostPort) && isPort(containerPort),
    )
    .sort((a, b) => (a.protocol < b.protocol ? -1 : a.protocol > b.protocol ? 1 : a.hostPort - b.hostPort));
}

/**
 * All of them in one transaction. The chains stay and are filled anew: connections that are there keep their way, also
 * to a container that has moved on, for its address has not changed.
 *
 * Clients are seen by the container as this host: it has no way to other networks of its own. A host that passes
 * packets on would be a way into the container network, and out of it, for everybody; `through` leaves published ports.
 */
export function rulesOf(forwards: readonly PortForward[], bridge: string): string {
  const table = `ip ${PORT_TABLE}`;
  const lines = [
    `table ${table} {`,
    "  chain arriving { type nat hook prerouting priority dstnat; }",
    "  chain local { type nat hook output priority -100; }",
    "  chain leaving { type nat hook postrouting priority srcnat; }",
    "  chain through { type filter hook forward priority filter; }",
    "}",
    ...["arriving", "local", "leaving", "through"].map((chain) => `flush chain ${table} ${chain}`),
    `add rule ${table} leaving oifname "${bridge}" ct status dnat masquerade`,
    `add rule ${table} through ct status dnat accept`,
    `add rule ${table} through ct state established,related accept`,
    `add rule ${table} through oifname "${bridge}" iifname != "${bridge}" drop`,
    `add rule ${table} through iifname "${bridge}" oifname != "${bridge}" drop`,
  ];
  for (const { address, containerPort, hostPort, protocol } of forwards) {
    const lead = `${protocol} dport ${hostPort} dnat to ${address}:${containerPort}`;
    lines.push(`add rule ${table} arriving fib daddr type local ${lead}`);
    // What is sent to the loopback address stays on it: the kernel does not route that.
    lines.push(`add rule ${table} local ip daddr != 127.0.0.0/8 fib daddr type local ${lead}`);
  }
  return `${lines.join("\n")}\n`;
}
