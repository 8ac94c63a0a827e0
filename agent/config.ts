import { readFileSync, statSync } from "node:fs";
import { isIPv4 } from "node:net";

import { GodwitError } from "../proto/contract/error.ts";
import { isName } from "../proto/contract/ids.ts";

/** The agent's configuration file (JSON). Paths are absolute. */
export interface AgentConfig {
  readonly node: string;
  /** Small files that describe what runs: records, bundles, runc's state, sockets. */
  readonly stateDir: string;
  /** Images and the containers' writable layers. */
  readonly dataDir: string;
  /** One or several servers, with commas between them. */
  readonly natsUrl: string;
  readonly natsUser?: string;
  readonly natsPasswordFile?: string;
  /** For a NATS that wants a certificate of its clients, and speaks TLS from the first byte. */
  readonly natsTls?: { readonly certFile: string; readonly keyFile: string; readonly caFile: string };
  /** IPv4 address of this host that the other hosts' VXLAN tunnels end at. */
  readonly underlayAddress: string;
  /** What the node offers; without them, what the host has. */
  readonly cpuMillis?: number;
  readonly memoryBytes?: number;
  readonly diskBytes?: number;
  /** What `run --constraint` can ask for; `godwit node label` adds to them and comes first. */
  readonly labels?: Readonly<Record<string, string>>;
  /** What the image stream of one move may take of the link, unless the move says otherwise; without it, all. */
  readonly moveBytesPerSecond?: number;
  readonly criuPath?: string;
  /** deploy/criu/tracking.c as setup.sh has built it. */
  readonly criuTrackingLibrary?: string;
  readonly runcPath?: string;
  readonly logLevel?: string;
}

export function readAgentConfig(path: string): AgentConfig {
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch (cause) {
    throw new GodwitError("invalid", `the configuration ${path} cannot be read as JSON`, { cause });
  }
  const wrong = (key: string, wanted: string): GodwitError =>
    new GodwitError("invalid", `${path}: '${key}' must be ${wanted}`);
  const text = (key: string): string => {
    const value = parsed[key];
    if (typeof value !== "string" || value === "") throw wrong(key, "a text");
    return value;
  };
  const optionalText = (key: string): string | undefined =>
    parsed[key] === undefined ? undefined : text(key);
  const optionalCount = (key: string): number | undefined => {
    const value = parsed[key];
    if (value === undefined) return undefined;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value <= 0)
      throw wrong(key, "a positive number");
    return value;
  };
  const folder = (key: string): string => {
    const value = text(key);
    if (!/^\/[\w./-]+$/.test(value)) throw wrong(key, "an absolute path of plain characters");
    return value.replace(/\/+$/, "");
  };
  const tls = (key: string): AgentConfig["natsTls"] => {
    const value = parsed[key];
    if (value === undefined) return undefined;
    const file = (name: string): string => {
      const path: unknown =
        typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
      if (typeof path !== "string" || !path.startsWith("/"))
        throw wrong(key, "an object with certFile, keyFile and caFile, each an absolute path");
      return path;
    };
    return { certFile: file("certFile"), keyFile: file("keyFile"), caFile: file("caFile") };
  };
  const labels = (key: string): AgentConfig["labels"] => {
    const value = parsed[key];
    if (value === undefined) return undefined;
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    const entries = isObject ? Object.entries(value) : [];
    if (!isObject || entries.some(([, one]) => typeof one !== "string"))
      throw wrong(key, "an object whose values are texts");
    return Object.fromEntries(entries as [string, string][]);
  };
  const node = text("node");
  if (!isName(node)) throw wrong("node", "a DNS label (a-z, 0-9 and -)");
  const underlayAddress = text("underlayAddress");
  if (!isIPv4(underlayAddress)) throw wrong("underlayAddress", "an IPv4 address of this host");
  return {
    node,
    stateDir: folder("stateDir"),
    dataDir: folder("dataDir"),
    natsUrl: text("natsUrl"),
    underlayAddress,
    ...defined("natsUser", optionalText("natsUser")),
    ...defined("natsPasswordFile", optionalText("natsPasswordFile")),
    ...defined("natsTls", tls("natsTls")),
    ...defined("cpuMillis", optionalCount("cpuMillis")),
    ...defined("memoryBytes", optionalCount("memoryBytes")),
    ...defined("diskBytes", optionalCount("diskBytes")),
    ...defined("labels", labels("labels")),
    ...defined("moveBytesPerSecond", optionalCount("moveBytesPerSecond")),
    ...defined("criuPath", optionalText("criuPath")),
    ...defined("criuTrackingLibrary", optionalText("criuTrackingLibrary")),
    ...defined("runcPath", optionalText("runcPath")),
    ...defined("logLevel", optionalText("logLevel")),
  };
}

function defined<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: V });
}

/** Reads a secret; a file that others can read is refused. */
export function readSecret(path: string): string {
  const { mode } = statSync(path);
  if ((mode & 0o077) !== 0) throw new GodwitError("invalid", `${path} can be read by others; chmod 600 it`);
  return readFileSync(path, "utf8").trim();
}

/** Where setup.sh puts tools that the distribution ships too old. */
const TOOLS = `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/tools`;
const PRIVATE_TOOLS = `${TOOLS}/bin`;
export const CRIU_TRACKING_LIBRARY = `${TOOLS}/lib/libgodwit-tracking.so`;

/** deploy/fence/fence.c as setup.sh has built it, where it has. */
export function findFence(): string | undefined {
  const path = `${PRIVATE_TOOLS}/godwit-fence`;
  return (statSync(path, { throwIfNoEntry: false })?.isFile() ?? false) ? path : undefined;
}

/** A program of this host: the private one first, since it is there only when the host's is not good enough. */
export function findProgram(name: string): string {
  for (const folder of [PRIVATE_TOOLS, ...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin"]) {
    const path = `${folder}/${name}`;
    if (folder !== "" && (statSync(path, { throwIfNoEntry: false })?.isFile() ?? false)) return path;
  }
  throw new GodwitError("unavailable", `${name} is not installed; run deploy/setup.sh`);
}
