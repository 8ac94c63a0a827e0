import { writeFileSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";

import { daemonEnvironment, launch, type Launched, type LaunchOrder } from "./launch.ts";
import { agentUser, NATS_READY, passwordFile, SCHEDULER_USER } from "./nats.ts";
import type { ClusterPlan, NodePlan, SchedulerPlan, ServerPlan } from "./plan.ts";
import { namespaceHolder, ownGroups } from "./namespaces.ts";
import { findProgram } from "./programs.ts";
import { clusterGroups, type DevRecord } from "./record.ts";

/** What the processes of a cluster are started with. */
export interface ProcessSettings {
  readonly leaseMs?: number;
  readonly snapshotEvery?: number;
  readonly logLevel?: string;
  /** What each host says that it has, in thousandths of a core. Default: all that this machine has. */
  readonly cpuMillis?: number;
  /** And in bytes of memory. Default: its share of what this machine has. */
  readonly memoryBytes?: number;
}

const repository = join(import.meta.dirname, "../..");
/** The group of nats-servers and of schedulers. */
export const CONTROL_GROUP = "ctl";
/** A shim is to stay small: it is there once for each host, for ever. */
const SHIM_FLAGS = ["--max-old-space-size=32", "--max-semi-space-size=1"];

export function writeConfigs(plan: ClusterPlan, settings: ProcessSettings): void {
  const { leaseMs, snapshotEvery, logLevel = "info" } = settings;
  for (const { configPath, dataDir, id, socketPath } of plan.schedulers)
    writeJson(configPath, {
      schedulerId: id,
      natsUrl: plan.natsUrl,
      natsUser: SCHEDULER_USER,
      natsPasswordFile: passwordFile(plan, SCHEDULER_USER),
      listen: [`unix:${socketPath}`],
      dataDir,
      replicas: plan.servers.length,
      logLevel,
      ...(leaseMs === undefined ? {} : { leaseMs }),
      ...(snapshotEvery === undefined ? {} : { snapshotEvery }),
    });
  // What this process may use, where a cgroup limits it (0 where none does).
  const limitBytes = process.constrainedMemory() || totalmem();
  const shareBytes = Math.floor(Math.min(totalmem(), limitBytes) / plan.nodes.length);
  for (const { name, underlayAddress, stateDir, dataDir, configPath } of plan.nodes) {
    writeJson(configPath, {
      node: name,
      stateDir,
      dataDir,
      natsUrl: plan.natsUrl,
      natsUser: agentUser(name),
      natsPasswordFile: passwordFile(plan, agentUser(name)),
      underlayAddress,
      memoryBytes: settings.memoryBytes ?? shareBytes,
      cpuMillis: settings.cpuMillis ?? availableParallelism() * 1000,
      logLevel,
    });
  }
}

export function launchNats(
  plan: ClusterPlan,
  record: DevRecord,
  { configPath, name }: ServerPlan,
): Launched & { isReady(): boolean } {
  const argv = [findProgram("nats-server"), "--config", configPath];
  const launched = launch(name, join(plan.logsDir, `${name}.log`), { ...control(plan, record), argv });
  return { ...launched, isReady: () => launched.log().includes(NATS_READY) };
}

export function launchApi(
  plan: ClusterPlan,
  record: DevRecord,
  { configPath, name }: SchedulerPlan,
): Launched {
  const program = record.apiMain ?? join(repository, "services/api/main.ts");
  const argv = [process.execPath, program, "--config", configPath];
  return launch(name, join(plan.logsDir, `${name}.log`), { ...control(plan, record), argv });
}

/** A host's shim, in namespaces that are made for it. */
export function launchHost(plan: ClusterPlan, record: DevRecord, node: NodePlan): Launched {
  return launchShim(plan, record, node, {
    // Its own root group: on v2 it makes itself a place below.
    groups: clusterGroups(record).map((group) => join(group, node.name)),
    place: {
      kind: "host",
      netnsPath: `/run/netns/${node.netns}`,
      name: node.name,
      hierarchies: record.hierarchies,
    },
  });
}

/** Another shim for a host whose own has died, while its agent keeps the namespaces. */
export function relaunchShim(plan: ClusterPlan, record: DevRecord, node: NodePlan): Launched {
  return launchShim(plan, record, node, {
    groups: ownGroups(record, node.name),
    place: { kind: "inside", pid: namespaceHolder(record, node.name) },
  });
}

function launchShim(
  plan: ClusterPlan,
  record: DevRecord,
  node: NodePlan,
  where: Pick<LaunchOrder, "groups" | "place">,
): Launched {
  const shim = join(repository, "agent/shim/main.ts");
  const agent = record.agentMain === undefined ? [] : ["--agent", record.agentMain];
  return launch(node.name, join(plan.logsDir, `${node.name}.log`), {
    dataDir: plan.dataDir,
    clusterId: record.clusterId,
    argv: [process.execPath, ...SHIM_FLAGS, shim, "--config", node.configPath, ...agent],
    environment: daemonEnvironment(),
    ...where,
  });
}

function control(plan: ClusterPlan, record: DevRecord): Omit<LaunchOrder, "argv"> {
  return {
    dataDir: plan.dataDir,
    clusterId: record.clusterId,
    groups: clusterGroups(record).map((group) => join(group, CONTROL_GROUP)),
    place: { kind: "control", netnsPath: `/run/netns/${plan.controlNetns}` },
    environment: daemonEnvironment(),
  };
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600 });
}
