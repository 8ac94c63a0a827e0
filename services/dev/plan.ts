import { createHash } from "node:crypto";
import { join } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";

/** Names, addresses and paths of a cluster on one machine: all of them follow from its data folder. Pure. */
export interface ClusterPlan {
  readonly dataDir: string;
  /** Six hexadecimal digits of the data folder's path: they keep clusters apart in names of namespaces and cgroups. */
  readonly key: string;
  readonly controlNetns: string;
  readonly nodes: readonly NodePlan[];
  readonly markerPath: string;
  readonly logsDir: string;
  readonly secretsDir: string;
  readonly apiSocketDir: string;
  /** One, or as many as there are schedulers. */
  readonly servers: readonly ServerPlan[];
  readonly schedulers: readonly SchedulerPlan[];
  /** All servers, as NATS clients take them. */
  readonly natsUrl: string;
  /** All schedulers, as the CLI takes them. */
  readonly api: string;
}
/** A nats-server. */
export interface ServerPlan {
  /** Of its process: "nats", or "nats1" and so on. */
  readonly name: string;
  readonly address: string;
  readonly storeDir: string;
  readonly configPath: string;
}
/** A scheduler with its API. */
export interface SchedulerPlan {
  /** Of its process: "api", or "api1" and so on. */
  readonly name: string;
  readonly id: string;
  readonly dataDir: string;
  readonly configPath: string;
  readonly socketPath: string;
}
export interface NodePlan {
  readonly name: string;
  readonly netns: string;
  readonly underlayAddress: string;
  readonly dir: string;
  readonly stateDir: string;
  readonly dataDir: string;
  readonly configPath: string;
}

export const CONTROL_ADDRESS = "10.77.0.1";
export const UNDERLAY_PREFIX_LENGTH = 24;
export const UNDERLAY_MTU = 9000;
export const NATS_PORT = 4222;
/** Between nats-servers. */
export const ROUTE_PORT = 6222;
const MOST_NODES = 64;
/** Host n1 has 10.77.0.11. */
const FIRST_HOST = 11;
/** Sockets and CRIU's working folders live below: their paths have 107 bytes. */
const LONGEST_DATA_DIR = 60;

/** Prefix of the names of all network namespaces of the cluster with this key. */
export const netnsPrefix = (key: string): string => `gw${key}-`;

export const clusterKey = (dataDir: string): string =>
  createHash("sha256").update(dataDir).digest("hex").slice(0, 6);

/** @param dataDir absolute, with symbolic links resolved */
export function planCluster(dataDir: string, nodeCount: number, schedulerCount = 1): ClusterPlan {
  if (![1, 3, 5].includes(schedulerCount))
    throw new GodwitError("invalid", "--schedulers must be 1, 3 or 5: more than half of them have to agree");
  if (!Number.isInteger(nodeCount) || nodeCount < 1 || nodeCount > MOST_NODES) {
    throw new GodwitError("invalid", `--nodes must be a whole number from 1 to ${MOST_NODES}`);
  }
  checkDataDir(dataDir);
  const key = clusterKey(dataDir);
  const nodes = Array.from({ length: nodeCount }, (_, i): NodePlan => {
    const name = `n${i + 1}`;
    const dir = join(dataDir, "hosts", name);
    return {
      name,
      netns: netnsPrefix(key) + name,
      underlayAddress: `10.77.0.${FIRST_HOST + i}`,
      dir,
      stateDir: join(dir, "state"),
      dataDir: join(dir, "data"),
      configPath: join(dir, "agent.json"),
    };
  });
  const servers = planServers(dataDir, schedulerCount);
  const schedulers = planSchedulers(dataDir, schedulerCount);
  return {
    dataDir,
    key,
    controlNetns: `${netnsPrefix(key)}ctl`,
    nodes,
    markerPath: markerPath(dataDir),
    logsDir: join(dataDir, "logs"),
    secretsDir: join(dataDir, "secrets"),
    apiSocketDir: join(dataDir, "run"),
    servers,
    schedulers,
    natsUrl: servers.map(({ address }) => `nats://${address}:${NATS_PORT}`).join(),
    api: schedulers.map(({ socketPath }) => `unix:${socketPath}`).join(),
  };
}

/** Without a number where there is one. */
const numbered = (count: number): string[] =>
  count === 1 ? [""] : Array.from({ length: count }, (_, at) => String(at + 1));

const planServers = (dataDir: string, count: number): ServerPlan[] =>
  numbered(count).map((number, at) => ({
    name: `nats${number}`,
    address: CONTROL_ADDRESS.replace(/1$/, String(at + 1)),
    storeDir: join(dataDir, `nats${number}`),
    configPath: join(dataDir, `nats${number}.conf`),
  }));

const planSchedulers = (dataDir: string, count: number): SchedulerPlan[] =>
  numbered(count).map((number) => ({
    name: `api${number}`,
    id: number === "" ? `dev-${clusterKey(dataDir)}` : `s${number}`,
    dataDir: join(dataDir, `api${number}`),
    configPath: join(dataDir, `api${number}.json`),
    socketPath: join(dataDir, "run", `api${number}.sock`),
  }));

export const markerPath = (dataDir: string): string => join(dataDir, "dev.json");

function checkDataDir(dataDir: string): void {
  if (dataDir.length > LONGEST_DATA_DIR) {
    throw new GodwitError(
      "invalid",
      `--data ${dataDir} is too long: sockets are made in it, so it may have ${LONGEST_DATA_DIR} characters at most`,
    );
  }
  if (!/^\/[\w./-]+$/.test(dataDir)) {
    throw new GodwitError("invalid", `--data ${dataDir}: use letters, digits, '.', '_', '-' and '/' only`);
  }
  // A host gets a /run, /proc and /sys of its own: what is below the machine's would be out of its sight.
  if (/^\/(run|var\/run|proc|sys|dev)(\/|$)/.test(dataDir)) {
    throw new GodwitError("invalid", `--data ${dataDir}: choose a folder outside /run, /proc, /sys and /dev`);
  }
}
