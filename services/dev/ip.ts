import { type ClusterPlan, netnsPrefix, UNDERLAY_MTU, UNDERLAY_PREFIX_LENGTH } from "./plan.ts";
import { run } from "./run.ts";

/** The `ip` program: a cluster's network namespaces. Nothing is configured in the namespace that this runs in. */

export async function listNetns(key: string, signal?: AbortSignal): Promise<string[]> {
  const text = await run("ip", ["netns", "list"], signal);
  return text
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "")
    .filter((name) => name.startsWith(netnsPrefix(key)));
}

/** A control namespace with a bridge, and one namespace for each host, joined to it by a veth. */
export async function createNetwork(plan: ClusterPlan, signal: AbortSignal): Promise<void> {
  for (const name of [plan.controlNetns, ...plan.nodes.map(({ netns }) => netns)]) {
    await run("ip", ["netns", "add", name], signal);
  }
  const mtu = UNDERLAY_MTU;
  await batch(
    plan.controlNetns,
    [
      "link set lo up",
      "link add underlay type bridge",
      ...plan.nodes.flatMap(({ name, netns }) => [
        `link add to-${name} mtu ${mtu} type veth peer name eth0 mtu ${mtu} netns ${netns}`,
        `link set to-${name} master underlay up`,
      ]),
      `link set underlay mtu ${mtu} up`,
      ...plan.servers.map(({ address }) => `addr add ${address}/${UNDERLAY_PREFIX_LENGTH} dev underlay`),
    ],
    signal,
  );
  for (const { netns, underlayAddress } of plan.nodes) {
    await batch(
      netns,
      [
        "link set lo up",
        `addr add ${underlayAddress}/${UNDERLAY_PREFIX_LENGTH} dev eth0`,
        "link set eth0 up",
      ],
      signal,
    );
  }
}

export async function processesInNetns(name: string): Promise<number[]> {
  const text = await run("ip", ["netns", "pids", name]);
  return text
    .split("\n")
    .map(Number)
    .filter((pid) => pid > 0);
}

export async function deleteNetns(name: string): Promise<void> {
  await run("ip", ["netns", "delete", name]);
}

async function batch(netns: string, commands: readonly string[], signal: AbortSignal): Promise<void> {
  await run("ip", ["-netns", netns, "-batch", "-"], signal, `${commands.join("\n")}\n`);
}
