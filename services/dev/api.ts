import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";

import { credentials, Metadata } from "@grpc/grpc-js";

import { GodwitClient, type NodeSummary } from "../../proto/gen/godwit/v1/api.ts";

const CALL_TIMEOUT_MS = 5_000;

/** Where the CLI looks for an API that it was told nothing about. */
export const ADDRESS_FILE = "/run/godwit/api";

/** Of the scheduler that leads. undefined while none does (yet) of those at these addresses. */
export async function listNodes(addresses: string): Promise<NodeSummary[] | undefined> {
  for (const address of addresses.split(",")) {
    const nodes = await listNodesAt(address);
    if (nodes !== undefined) return nodes;
  }
  return undefined;
}

/** Whether the API there answers, whoever leads. */
export function answers(address: string): Promise<boolean> {
  const client = new GodwitClient(address, credentials.createInsecure());
  return new Promise((resolve) => {
    client.status({ local: true }, new Metadata(), { deadline: Date.now() + CALL_TIMEOUT_MS }, (error) => {
      client.close();
      resolve(error === null);
    });
  });
}

function listNodesAt(address: string): Promise<NodeSummary[] | undefined> {
  const client = new GodwitClient(address, credentials.createInsecure());
  return new Promise((resolve) => {
    client.listNodes({}, new Metadata(), { deadline: Date.now() + CALL_TIMEOUT_MS }, (error, answer) => {
      client.close();
      resolve(error === null ? answer.nodes : undefined);
    });
  });
}

export const hasLease = (node: NodeSummary): boolean => node.state === "ready" && node.leaseMs > 0;

/** Makes this API the one that the CLI finds by itself, unless another that lives is it already. */
export async function announce(address: string): Promise<boolean> {
  const other = announced();
  if (other !== undefined && other !== address) {
    // An address on the network is none of ours: whoever wrote it knows why.
    for (const one of other.split(","))
      if (!one.startsWith("unix:") || (await listens(one.slice("unix:".length)))) return false;
  }
  mkdirSync(dirname(ADDRESS_FILE), { recursive: true, mode: 0o755 });
  const draft = `${ADDRESS_FILE}.${process.pid}`;
  writeFileSync(draft, `${address}\n`, { mode: 0o644 });
  renameSync(draft, ADDRESS_FILE);
  return true;
}

/** Takes the announcement back, if it is this API's. */
export function withdraw(address: string): boolean {
  if (announced() !== address) return false;
  rmSync(ADDRESS_FILE, { force: true });
  return true;
}

/** The API that the CLI finds by itself. */
export function announced(): string | undefined {
  try {
    return readFileSync(ADDRESS_FILE, "utf8").trim();
  } catch {
    return undefined; // nobody is
  }
}

/** Whether somebody answers on this unix socket. */
export function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}
