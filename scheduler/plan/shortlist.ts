/** Nodes to look at first where there are very many: a plan of hundreds of moves need not weigh thousands of nodes for each. Pure. */
import { NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { useOf } from "../state/capacity.ts";
import type { Cluster } from "../state/cluster.ts";

/** With fewer nodes all of them are looked at. */
const MANY_NODES = 512;
/** Of the emptiest, for what is to be spread, and as many of the fullest, for what is to be packed. */
const SHORTLISTED = 128;

/** Undefined: look at all. What fits none of these may still fit another. */
export const shortlistOf = (cluster: Cluster): readonly string[] | undefined => {
  const entries = Object.entries(cluster.state.nodes);
  if (entries.length < MANY_NODES) return undefined;
  const ranked = entries
    .filter(([, node]) => node.schedulable && node.state === NodeState.READY)
    .map(([name, node]) => {
      const use = useOf(cluster, name);
      const memory = use.memoryBytes / Math.max(1, node.info?.memoryBytes ?? 0);
      const cpus = use.cpuMillis / Math.max(1, node.info?.cpuMillis ?? 0);
      return { name, share: Math.max(memory, cpus) };
    })
    .sort((a, b) => a.share - b.share || (a.name < b.name ? -1 : 1))
    .map(({ name }) => name);
  return ranked.length <= 2 * SHORTLISTED
    ? ranked
    : [...ranked.slice(0, SHORTLISTED), ...ranked.slice(-SHORTLISTED)];
};
