import { stat } from "node:fs/promises";

import { mustRun, runCommand } from "../native/command.ts";

/** A container's network namespace: eth0 in it, the other end of the veth on the host. */
export interface Attachment {
  readonly namespace: string;
  readonly namespacePath: string;
  readonly hostInterface: string;
}

export interface AttachmentAddress {
  /** IPv4 with prefix length. */
  readonly address: string;
  readonly mac: string;
  readonly mtu: number;
}

export function attachmentOf(containerId: string): Attachment {
  const namespace = `gwc-${containerId}`;
  return {
    namespace,
    namespacePath: `/run/netns/${namespace}`,
    // Interface names end at 15 characters.
    hostInterface: `gv${containerId.slice(0, 12)}`,
  };
}

/**
 * Makes the namespace with its address, but no link to the container network yet: sockets can be restored in
 * it (they need a route) while no packet comes in or goes out. Idempotent: what an earlier try left is replaced.
 */
export async function prepareAttachment(attachment: Attachment, address: AttachmentAddress): Promise<void> {
  await removeAttachment(attachment);
  await mustRun("ip", ["netns", "add", attachment.namespace]);
  await mustRun("ip", ["-batch", "-"], {
    input: [
      `link add ${attachment.hostInterface} mtu ${address.mtu} type veth peer name eth0 netns ${attachment.namespace}`,
      // The host itself has nothing to say on this wire: unplugged from the bridge, what the container sends
      // (a reset by a copy that is being removed, for example) must end here and not in the host's own sockets.
      `link set ${attachment.hostInterface} addrgenmode none arp off`,
      `link set ${attachment.hostInterface} up`,
    ].join("\n"),
  });
  // arp_notify: the kernel itself announces the address when the link is plugged in (plug.ts).
  await mustRun("ip", [
    ...["netns", "exec", attachment.namespace, "sysctl", "-q", "-w"],
    ...["net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.disable_ipv6=1"],
  ]);
  await mustRun("ip", ["-n", attachment.namespace, "-batch", "-"], {
    input: [
      "link set lo up",
      `link set eth0 address ${address.mac} mtu ${address.mtu}`,
      `addr add ${address.address} dev eth0`,
      "link set eth0 up",
    ].join("\n"),
  });
}

export async function removeAttachment(attachment: Attachment): Promise<void> {
  await runCommand("ip", ["link", "del", attachment.hostInterface]);
  if (await isThere(attachment.namespacePath)) await mustRun("ip", ["netns", "del", attachment.namespace]);
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
