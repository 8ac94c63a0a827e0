import { createSocket } from "node:dgram";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";

import { GodwitError } from "../../proto/contract/error.ts";
import type { DesiredAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import type { PublishedPort } from "../../proto/gen/godwit/v1/spec.ts";
import { mustRun, runCommand } from "../native/command.ts";
import { BRIDGE } from "./overlay.ts";
import { forwardsOf, PORT_TABLE, type PortForward, rulesOf } from "./port-rules.ts";

/**
 * Ports of this host that lead to containers. They follow what is wanted here and nothing else: at a move they are at
 * the target before the container is, and go from the source when it has gone, so no stall waits for them.
 */
export class PublishedPorts {
  #wanted: readonly PortForward[] = [];
  /** Rules that are in force; undefined: not known, of an earlier agent. */
  #applied: string | undefined;
  #work: Promise<void> = Promise.resolve();

  /** Rejects when the rules cannot be set; `catchUp` tries again. */
  async publish(allocations: readonly DesiredAllocation[]): Promise<void> {
    this.#wanted = forwardsOf(allocations);
    await this.catchUp();
  }

  /** Nothing to do where the last try succeeded. */
  async catchUp(): Promise<void> {
    // One at a time: each works on what is wanted when it begins.
    const done = this.#work.then(() => this.#apply());
    this.#work = done.catch(() => undefined);
    await done;
  }

  async #apply(): Promise<void> {
    const rules = this.#wanted.length === 0 ? "" : rulesOf(this.#wanted, BRIDGE);
    if (rules === this.#applied) return;
    if (rules === "") {
      if (this.#applied === undefined) {
        // Whether there is such a table is not known: where there is none, this fails and nothing is amiss.
        await runCommand("nft", ["flush", "table", "ip", PORT_TABLE]);
      } else await mustRun("nft", ["-f", "-"], { input: rulesOf([], BRIDGE) });
    } else {
      await writeFile("/proc/sys/net/ipv4/ip_forward", "1");
      await mustRun("nft", ["-f", "-"], { input: rules });
    }
    this.#applied = rules;
  }

  /** Throws when a program of the host has one of the ports: it would be cut off. */
  async check(ports: readonly PublishedPort[]): Promise<void> {
    for (const { hostPort, protocol } of ports) {
      const isFree = protocol === "udp" ? await isFreeUdp(hostPort) : await isFreeTcp(hostPort);
      if (!isFree)
        throw new GodwitError(
          "refused",
          `a program of this host uses its port ${hostPort}/${protocol === "udp" ? "udp" : "tcp"}: publish another one, or stop that program`,
        );
    }
  }
}

const isInUse = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === "EADDRINUSE";

async function isFreeTcp(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen({ port, host: "0.0.0.0", exclusive: true });
    await once(server, "listening");
    return true;
  } catch (error) {
    if (isInUse(error)) return false;
    throw error;
  } finally {
    if (server.listening) {
      server.close();
      await once(server, "close");
    }
  }
}

async function isFreeUdp(port: number): Promise<boolean> {
  const socket = createSocket("udp4");
  try {
    socket.bind({ port, address: "0.0.0.0", exclusive: true });
    await once(socket, "listening");
    return true;
  } catch (error) {
    if (isInUse(error)) return false;
    throw error;
  } finally {
    socket.close();
  }
}
