/** What nodes say of their fences, and when the containers of a lost node stand still for certain. */
import { NodeState, type Command, type Node } from "../../proto/gen/godwit/v1/log.ts";
import { formatSeconds } from "../model/quantity.ts";
import type { Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import type { Volatile } from "./volatile.ts";

const MAX_FAULT = 256;

/** With failover off every agent opens its fence, and says so; until then its word is that of before. */
const planFence = (cluster: Cluster, volatile: Volatile, name: string): Command[] => {
  const node = cluster.state.nodes[name];
  const report = volatile.nodes.get(name)?.report;
  if (node?.state !== NodeState.READY || report === undefined || cluster.state.failoverOff) return [];
  const { fenceMs } = report;
  if (fenceMs === undefined) return [];
  const fault = fenceMs > 0 ? "" : report.fenceFault.slice(0, MAX_FAULT);
  if (fenceMs === node.fenceMs && fault === node.fenceFault) return [];
  return [command("nodeFenceSet", { node: name, fenceMs, fault })];
};

/** @param names the nodes of which it is asked whether time is up */
export const planFences = (
  cluster: Cluster,
  volatile: Volatile,
  { names, nowMs }: { names: Iterable<string>; nowMs: number },
): Command[] => {
  const commands = [...volatile.fresh].flatMap((name) => planFence(cluster, volatile, name));
  if (cluster.state.failoverOff) return commands;
  for (const name of names) {
    const node = cluster.state.nodes[name];
    if (node?.state !== NodeState.LOST || node.fenced || node.fenceMs === 0) continue;
    if (nowMs >= volatile.fencedFromMs(name, node.fenceMs))
      commands.push(command("nodeFenced", { node: name }));
  }
  return commands;
};

/** What a lost node means for what it ran. */
export const lostWords = (
  name: string,
  node: Node,
  leftMs: number | undefined,
  failoverOff: boolean,
): string => {
  const lost = `node ${name} is lost: ${node.stateReason || "it does not report"}`;
  if (node.fenced) return `${lost}; its containers stand still there and go on elsewhere`;
  if (failoverOff) return `${lost}; failover is off, so its containers wait for it`;
  if (node.fenceMs > 0) {
    const when = leftMs === undefined ? "soon" : `in ${formatSeconds(Math.max(0, leftMs))}`;
    return `${lost}; its containers stand still there and go on elsewhere ${when}`;
  }
  return `${lost}; nothing is known to stop its containers there${node.fenceFault === "" ? "" : ` (${node.fenceFault})`}, so they go on elsewhere only with the word of somebody who has seen that it is off: "godwit node rm --is-off ${name}"`;
};
