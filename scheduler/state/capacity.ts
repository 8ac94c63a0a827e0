import type { Node } from "../../proto/gen/godwit/v1/log.ts";
import type { Resources } from "../../proto/gen/godwit/v1/spec.ts";
import type { Cluster, NodeUse } from "./cluster.ts";

/** No agent reports how many processes its host can take, so this is assumed of every node. */
export const NODE_PIDS = 32_768;

const NO_USE: Readonly<NodeUse> = { memoryBytes: 0, cpuMillis: 0, pids: 0, containers: 0 };
export const useOf = (cluster: Cluster, node: string): Readonly<NodeUse> =>
  cluster.index.use.get(node) ?? NO_USE;

export interface Shortage {
  readonly of: "memory" | "cpus" | "pids";
  readonly wanted: number;
  readonly free: number;
}

/** The first thing that the node has too little of, given what it has promised already. */
export const shortageOf = (node: Node, use: Readonly<NodeUse>, wanted: Resources): Shortage | undefined => {
  const checks = [
    { of: "memory", wanted: wanted.memoryBytes, free: (node.info?.memoryBytes ?? 0) - use.memoryBytes },
    { of: "cpus", wanted: wanted.cpuMillis, free: (node.info?.cpuMillis ?? 0) - use.cpuMillis },
    { of: "pids", wanted: wanted.pids, free: NODE_PIDS - use.pids },
  ] as const;
  return checks.find((check) => check.wanted > 0 && check.wanted > check.free);
};
