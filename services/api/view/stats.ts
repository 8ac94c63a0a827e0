/** What containers and nodes use. Pure. */
import type { Load } from "../../../proto/gen/godwit/v1/agent.ts";
import type { ContainerStats, NodeStats } from "../../../proto/gen/godwit/v1/api.ts";
import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import type { DeepReadonlyState, Scheduler } from "../../../scheduler/mod.ts";
import { containerState, type ContainerRecord } from "./container.ts";
import { nodeState, type NodeRecord } from "./node.ts";

type ContainerUsage = ReturnType<Scheduler["balancing"]["usageOf"]>;
type NodeUsage = ReturnType<Scheduler["balancing"]["nodeUsage"]>;

export function containerStats(
  state: DeepReadonlyState,
  container: ContainerRecord,
  usage: ContainerUsage,
): ContainerStats {
  const { allocation, spec } = container;
  const isLost = allocation !== undefined && state.nodes[allocation.node]?.state === NodeState.LOST;
  const { load, observed } = usage ?? {};
  const isWatched = load !== undefined && load.watchedMs > 0;
  return {
    id: container.id,
    name: spec?.name ?? container.id,
    node: allocation?.node ?? "",
    state: containerState(container, isLost),
    cpuMillis: isWatched ? load.recentCpuMillis : undefined,
    cpuMillisSmoothed: isWatched ? load.cpuMillis : undefined,
    cpuLimitMillis: spec?.limits?.cpuMillis ?? 0,
    memoryBytes: observed?.memoryBytes ?? 0,
    memoryLimitBytes: spec?.limits?.memoryBytes ?? 0,
    pids: observed?.pids ?? 0,
    pidsLimit: spec?.limits?.pids ?? 0,
    readBytes: observed?.readBytes,
    writtenBytes: observed?.writtenBytes,
    receivedBytes: observed?.receivedBytes,
    sentBytes: observed?.sentBytes,
  };
}

export function nodeStats(
  name: string,
  node: NodeRecord,
  containers: number,
  load: Load | undefined,
  usage: NodeUsage,
): NodeStats {
  return {
    node: name,
    state: nodeState(node),
    containers,
    cpuMillis: node.info?.cpuMillis ?? 0,
    cpuMillisUsed: usage !== undefined && usage.watchedMs > 0 ? usage.recentCpuMillis : undefined,
    memoryBytes: node.info?.memoryBytes ?? 0,
    memoryBytesUsed: Math.round(usage?.memoryBytes ?? 0),
    hostMemoryBytesUsed: load?.memoryBytesUsed ?? 0,
    load1: load?.load1 ?? 0,
    cpuPressure: usage?.pressure?.cpu,
    memoryPressure: usage?.pressure?.memory,
    ioPressure: usage?.pressure?.io,
  };
}
