import { openSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { enterNamespace, isAlive, Namespace, unshare } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { isPureV2 } from "./cgroups.ts";
import { clusterGroups, type DevRecord, processLives, type ProcessRecord } from "./record.ts";

/** On v2, the group of a host's own processes: the host's root group may hold none beside its children. */
export const OWN_GROUP = "host";

/** The groups that a process of this host is in, one for each hierarchy, as seen from outside. */
export const ownGroups = (record: DevRecord, node: string): string[] =>
  clusterGroups(record).map((group) => join(group, node, isPureV2(record.hierarchies) ? OWN_GROUP : ""));

/** The agent that a shim has written down. undefined when it is not alive. */
export function recordedAgent(stateDir: string): ProcessRecord | undefined {
  try {
    const { pid, startTicks } = JSON.parse(
      readFileSync(join(stateDir, "agent.json"), "utf8"),
    ) as ProcessRecord;
    return isAlive(pid, startTicks) ? { pid, startTicks } : undefined;
  } catch {
    return undefined; // none was started yet
  }
}

/** A process that keeps the host's namespaces: its shim, or while that is dead, its agent. */
export function namespaceHolder(record: DevRecord, node: string): number {
  const shim = record.processes[node];
  if (!/^n\d+$/.test(node) || shim === undefined) {
    throw new GodwitError("not-found", `no host is called '${node}'; there are n1 to n${record.nodeCount}`);
  }
  if (processLives(record, shim)) return shim.pid;
  const agent = recordedAgent(join(record.dataDir, "hosts", node, "state"));
  if (agent === undefined) throw new GodwitError("unavailable", `host ${node} is not running`);
  return agent.pid;
}

/** Goes into the network, UTS, cgroup and mount namespaces of this process. Only synchronous file calls see them. */
export function enterNamespacesOf(pid: number): void {
  const kinds = {
    net: Namespace.network,
    uts: Namespace.uts,
    cgroup: Namespace.cgroup,
    mnt: Namespace.mount,
  };
  const opened = Object.entries(kinds).map(([name, kind]) => ({
    kind,
    descriptor: openSync(`/proc/${pid}/ns/${name}`, "r"),
  }));
  unshare(Namespace.fileSystemState); // a thread that shares them may not change its mount namespace
  for (const { kind, descriptor } of opened) enterNamespace(descriptor, kind);
}
