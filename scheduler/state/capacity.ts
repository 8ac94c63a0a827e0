import type { Node } from "../../proto/gen/godwit/v1/log.ts";
import type { Resources } from "../../proto/gen/godwit/v1/spec.ts";
import { formatBytes, formatCpus } from "../model/quantity.ts";
import type { Cluster, NodeUse } from "./cluster.ts";

/** No agent reports how many processes its host can take, so this is assumed of every node. */
export const NODE_PIDS = 32_768;

const NO_USE: Readonly<NodeUse> = { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0, containers: 0 };
export const useOf = (cluster: Cluster, node: string): Readonly<NodeUse> =>
  cluster.index.use.get(node) ?? NO_USE;

export interface Shortage {
  readonly of: "memory" | "cpus" | "pids" | "disk";
  readonly wanted: number;
  readonly free: number;
}

/** A node that does not know its disk is not held to it. */
export const diskOf = ({ info }: Pick<Node, "info">): number => info?.diskBytes || Infinity;

/** Whether the node has enough of everything, given what it has promised already. */
export const hasRoom = (node: Node, use: Readonly<NodeUse>, wanted: Resources): boolean =>
  (wanted.memoryBytes === 0 || wanted.memoryBytes <= (node.info?.memoryBytes ?? 0) - use.memoryBytes) &&
  (wanted.cpuMillis === 0 || wanted.cpuMillis <= (node.info?.cpuMillis ?? 0) - use.cpuMillis) &&
  (wanted.pids === 0 || wanted.pids <= NODE_PIDS - use.pids) &&
  (wanted.diskBytes === 0 || wanted.diskBytes <= diskOf(node) - use.diskBytes);

/** All that the node has too little of. */
export const shortagesOf = (node: Node, use: Readonly<NodeUse>, wanted: Resources): Shortage[] => {
  const checks = [
    { of: "memory", wanted: wanted.memoryBytes, free: (node.info?.memoryBytes ?? 0) - use.memoryBytes },
    { of: "cpus", wanted: wanted.cpuMillis, free: (node.info?.cpuMillis ?? 0) - use.cpuMillis },
    { of: "pids", wanted: wanted.pids, free: NODE_PIDS - use.pids },
    { of: "disk", wanted: wanted.diskBytes, free: diskOf(node) - use.diskBytes },
  ] as const;
  return checks.filter((check) => check.wanted > 0 && check.wanted > check.free);
};

/** The largest share of one of the node's resources that is promised. */
export const promisedShare = (node: Node, use: Readonly<NodeUse>): number =>
  Math.max(
    use.memoryBytes / Math.max(1, node.info?.memoryBytes ?? 0),
    use.cpuMillis / Math.max(1, node.info?.cpuMillis ?? 0),
    use.pids / NODE_PIDS,
    use.diskBytes / diskOf(node),
  );

/** "512 MiB of memory", "0.5 cpus", "100 pids", "1 GiB of disk" */
export const wantedText = ({ of, wanted }: Shortage): string => {
  switch (of) {
    case "memory":
      return `${formatBytes(wanted)} of memory`;
    case "disk":
      return `${formatBytes(wanted)} of disk`;
    case "cpus":
      return formatCpus(wanted);
    case "pids":
      return `${wanted} pids`;
  }
};
export const freeText = ({ of, free }: Shortage): string => {
  const shown = Math.max(0, free);
  if (of === "memory" || of === "disk") return formatBytes(shown);
  return of === "cpus" ? formatCpus(shown) : `${shown} pids`;
};
