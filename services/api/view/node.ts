/** What a person is told about a node. Pure. */
import type { NodeSummary } from "../../../proto/gen/godwit/v1/api.ts";
import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import type { DeepReadonlyState, NodeRuntime } from "../../../scheduler/mod.ts";

export type NodeRecord = DeepReadonlyState["nodes"][string];
export type NodeStateName = "ready" | "lost" | "draining" | "drained";

export function nodeState(node: NodeRecord): NodeStateName {
  if (node.state === NodeState.LOST) return "lost";
  if (node.drain !== undefined && node.drain.outcome === "") return "draining";
  // A drained node stays so until it takes containers again.
  if (node.drain?.outcome === "drained" && !node.schedulable) return "drained";
  return "ready";
}

function fenceWord(node: NodeRecord, failoverOff: boolean, isClosed: boolean): string {
  if (failoverOff) return "off";
  if (node.fenced || isClosed) return "closed";
  return node.fenceMs > 0 ? "armed" : node.fenceFault || "not armed yet";
}

export function nodeSummary(
  state: DeepReadonlyState,
  name: string,
  node: NodeRecord,
  runtime: NodeRuntime | undefined,
): NodeSummary {
  let containers = 0;
  let memoryReservedBytes = 0;
  let cpuReservedMillis = 0;
  let diskReservedBytes = 0;
  const pressure = runtime?.load.pressure;
  for (const container of Object.values(state.containers)) {
    if (container.allocation?.node !== name) continue;
    containers += 1;
    memoryReservedBytes += container.spec?.limits?.memoryBytes ?? 0;
    cpuReservedMillis += container.spec?.limits?.cpuMillis ?? 0;
    diskReservedBytes += container.spec?.limits?.diskBytes ?? 0;
  }
  return {
    name,
    state: nodeState(node),
    schedulable: node.schedulable,
    containers,
    cpuMillis: node.info?.cpuMillis ?? 0,
    memoryBytes: node.info?.memoryBytes ?? 0,
    load: runtime?.load.load1 ?? 0,
    leaseMs: Math.trunc(runtime?.leaseMs ?? 0),
    kernel: node.info?.kernel ?? "",
    criuVersion: node.info?.criuVersion ?? "",
    address: node.info?.underlayAddress ?? "",
    memoryReservedBytes,
    cpuReservedMillis,
    fence: fenceWord(node, state.failoverOff, runtime?.fenceClosed === true),
    labels: { ...node.info?.labels, ...node.labels },
    ...(pressure === undefined ? {} : { pressure }),
    diskBytes: node.info?.diskBytes ?? 0,
    diskReservedBytes,
  };
}
