import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { processStat } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { announce, answers, hasLease, listNodes } from "./api.ts";
import { clusterGroup, createGroup, isPureV2, readHierarchies } from "./cgroups.ts";
import { DevCluster } from "./cluster.ts";
import { devDown } from "./down.ts";
import { createNetwork, listNetns } from "./ip.ts";
import { lastWords, type Launched } from "./launch.ts";
import { writeNatsConfig } from "./nats.ts";
import { type ClusterPlan, planCluster } from "./plan.ts";
import {
  CONTROL_GROUP,
  launchApi,
  launchHost,
  launchNats,
  type ProcessSettings,
  writeConfigs,
} from "./processes.ts";
import {
  bootId,
  canonicalDataDir,
  createRecord,
  type DevRecord,
  processLives,
  readRecord,
  updateRecord,
} from "./record.ts";
import { waitFor } from "./wait.ts";

export const DEFAULT_DATA_DIR = "/var/lib/godwit-dev";
const DEFAULT_NODES = 3;
const NATS_TIMEOUT_MS = 20_000;
const API_TIMEOUT_MS = 45_000;
const NODES_TIMEOUT_MS = 60_000;

export interface DevUpOptions extends ProcessSettings {
  /** Default /var/lib/godwit-dev. */
  readonly dataDir?: string;
  /** Default 3. */
  readonly nodes?: number;
  /** Default 1; with 3 or 5, each has a nats-server of its own beside it. */
  readonly schedulers?: number;
  /** Make it the cluster that the CLI finds by itself, unless there is one that lives. Default true. */
  readonly announce?: boolean;
  /** Other programs in place of services/api/main.ts and agent/main.ts; for tests. */
  readonly apiMain?: string;
  readonly agentMain?: string;
  readonly signal?: AbortSignal;
  /** Told of each step, in words for a person. */
  readonly onProgress?: (step: string) => void;
}

/**
 * Starts a cluster on this machine. When it returns, the API answers and every node is ready. When it fails,
 * nothing is left of it.
 */
export async function devUp(options: DevUpOptions = {}): Promise<DevCluster> {
  const { onProgress = () => undefined, signal = new AbortController().signal } = options;
  if (process.getuid?.() !== 0)
    throw new GodwitError("refused", "root is needed for namespaces and cgroups; run it with sudo");
  const dataDir = canonicalDataDir(options.dataDir ?? DEFAULT_DATA_DIR);
  const plan = planCluster(dataDir, options.nodes ?? DEFAULT_NODES, options.schedulers ?? 1);
  await makeRoom(plan, onProgress);

  const hierarchies = readHierarchies();
  createRecord({
    version: 1,
    clusterId: randomBytes(8).toString("hex"),
    bootId: bootId(),
    dataDir,
    state: "starting",
    nodeCount: plan.nodes.length,
    schedulerCount: plan.schedulers.length,
    owner: { pid: process.pid, startTicks: processStat(process.pid)?.startTicks ?? 0 },
    hierarchies,
    processes: {},
    ...(options.apiMain === undefined ? {} : { apiMain: options.apiMain }),
    ...(options.agentMain === undefined ? {} : { agentMain: options.agentMain }),
  });
  // One way back for whatever has been made by then.
  const undo = new AsyncDisposableStack();
  undo.defer(async () => void (await devDown(dataDir)));
  try {
    await start(plan, options, signal, onProgress);
    updateRecord(dataDir, (record) => ({ ...record, owner: null, state: "up" }));
    if (options.announce !== false) await announce(plan.api);
    return DevCluster.open(dataDir);
  } catch (error) {
    onProgress("failed; removing what was made");
    const failure = signal.aborted ? GodwitError.from(signal.reason, "cancelled") : GodwitError.from(error);
    try {
      await undo.disposeAsync();
    } catch (left) {
      const { message, code } = failure;
      throw new GodwitError(
        code,
        `${message} (and not all could be removed: ${GodwitError.from(left).message}; run 'godwit dev down --data ${dataDir}')`,
        { cause: error },
      );
    }
    throw failure;
  }
}

/** Refuses where there is a cluster, or a folder of somebody else's; cleans up after one that is dead. */
async function makeRoom(plan: ClusterPlan, onProgress: (step: string) => void): Promise<void> {
  const { dataDir, key, markerPath } = plan;
  const record = readRecord(dataDir);
  if (record !== undefined) {
    refuseLiving(record);
    onProgress(
      `removing what is left of a cluster that ${record.state === "up" ? "has died" : "was never finished"}`,
    );
    await devDown(dataDir);
  } else if ((await listNetns(key)).length > 0) {
    onProgress("removing what is left of a cluster whose folder is gone");
    await devDown(dataDir);
  }
  if (!existsSync(dataDir)) return;
  for (const name of readdirSync(dataDir)) {
    const path = join(dataDir, name);
    const draftOf = path.startsWith(`${markerPath}.`) ? Number(path.slice(markerPath.length + 1)) : undefined;
    if (draftOf !== undefined) {
      // A draft of the marker: of another that starts at this moment, or of one that was killed in its first.
      if (processStat(draftOf) === undefined) rmSync(path);
      continue;
    }
    const other = readRecord(dataDir);
    if (other !== undefined) refuseLiving(other);
    throw new GodwitError(
      "refused",
      `${dataDir} is not empty and no cluster of 'godwit dev'; choose another --data`,
    );
  }
}

function refuseLiving(record: DevRecord): void {
  const { dataDir, owner, state } = record;
  if (owner !== null && processLives(record, owner)) {
    const doing = state === "stopping" ? "taken down" : "started";
    throw new GodwitError(
      "exists",
      `the cluster in ${dataDir} is just being ${doing} by process ${owner.pid}`,
    );
  }
  const all = Object.values(record.processes);
  const living = all.filter((process) => processLives(record, process));
  if (state === "up" && living.length > 0) {
    const dead =
      living.length < all.length ? `start what has died with 'godwit dev start --data ${dataDir}', or ` : "";
    throw new GodwitError(
      "exists",
      `a cluster is up in ${dataDir} (${living.length} of its ${all.length} processes run); ${dead}stop it first with 'godwit dev down --data ${dataDir}'`,
    );
  }
}

async function start(
  plan: ClusterPlan,
  options: DevUpOptions,
  signal: AbortSignal,
  onProgress: (step: string) => void,
): Promise<void> {
  const record = readRecord(plan.dataDir);
  if (record === undefined) throw new GodwitError("internal", `${plan.markerPath} has vanished`);
  const stores = plan.servers.map(({ storeDir }) => storeDir);
  const spools = plan.schedulers.map(({ dataDir }) => dataDir);
  for (const dir of [plan.logsDir, plan.secretsDir, plan.apiSocketDir, ...stores, ...spools]) {
    mkdirSync(dir, { mode: 0o700 });
  }
  for (const { stateDir, dataDir } of plan.nodes) {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  }
  writeNatsConfig(plan);
  writeConfigs(plan, options);

  onProgress(`making the network: ${plan.nodes.length} hosts and a control namespace`);
  await createNetwork(plan, signal);
  const pureV2 = isPureV2(record.hierarchies);
  for (const hierarchy of record.hierarchies) {
    for (const name of [CONTROL_GROUP, ...plan.nodes.map((node) => node.name)]) {
      createGroup(hierarchy, join(clusterGroup(hierarchy, plan.key), name), pureV2);
    }
  }

  const several = plan.servers.length > 1;
  onProgress(several ? `starting ${plan.servers.length} nats-servers` : "starting nats-server");
  for (const { nats, name } of plan.servers.map((server) => ({
    name: server.name,
    nats: launchNats(plan, record, server),
  })))
    await waitFor(
      () => (nats.isReady() ? true : failIfDead(name, nats)),
      NATS_TIMEOUT_MS,
      () => `${name} is not ready after ${NATS_TIMEOUT_MS / 1000} s; ${lastWords(nats.log())}`,
      signal,
    );

  onProgress(`starting the scheduler${several ? "s" : ""} and the hosts`);
  const apis = plan.schedulers.map((scheduler) => ({
    name: scheduler.name,
    address: `unix:${scheduler.socketPath}`,
    launched: launchApi(plan, record, scheduler),
  }));
  const failIfOneIsDead = (): undefined => {
    for (const { name, launched } of apis) failIfDead(several ? name : "the API", launched);
  };
  const hosts = plan.nodes.map((node) => ({
    name: node.name,
    launched: launchHost(plan, record, node),
  }));
  await waitFor(
    async () => (await listNodes(plan.api)) ?? failIfOneIsDead(),
    API_TIMEOUT_MS,
    () =>
      `the API does not answer after ${API_TIMEOUT_MS / 1000} s; ${lastWords(apis[0]?.launched.log() ?? "")}`,
    signal,
  );
  for (const { address, launched, name } of apis)
    await waitFor(
      async () => ((await answers(address)) ? true : failIfDead(name, launched)),
      API_TIMEOUT_MS,
      () => `${name} does not answer after ${API_TIMEOUT_MS / 1000} s; ${lastWords(launched.log())}`,
      signal,
    );

  onProgress("waiting for the nodes");
  let missing = hosts;
  await waitFor(
    async () => {
      failIfOneIsDead();
      for (const { name, launched } of hosts) failIfDead(`host ${name}`, launched);
      const ready = ((await listNodes(plan.api)) ?? []).filter(hasLease).map((node) => node.name);
      missing = hosts.filter(({ name }) => !ready.includes(name));
      return missing.length === 0 ? true : undefined;
    },
    NODES_TIMEOUT_MS,
    () => {
      const names = missing.map(({ name }) => name).join(", ");
      const [first] = missing;
      return `not ready after ${NODES_TIMEOUT_MS / 1000} s: ${names}; ${lastWords(first?.launched.log() ?? "")}`;
    },
    signal,
  );
}

function failIfDead(what: string, launched: Launched): undefined {
  if (!launched.lives())
    throw new GodwitError("unavailable", `${what} has ended; ${lastWords(launched.log())}`);
  return undefined;
}
