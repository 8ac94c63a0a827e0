/** Where a container can go on from a checkpoint. Pure. */
import type { Checkpoint } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "./cluster.ts";
import { hostDifferences } from "./host-match.ts";

/** Why a host cannot restore it; empty: it can. */
export const unfitFor = (
  checkpoint: Pick<Checkpoint, "arch" | "cpuFlags" | "criuVersion" | "features" | "source">,
  to: NodeInfo,
): string[] => {
  const { arch, cpuFlags, criuVersion, features, source } = checkpoint;
  return hostDifferences(NodeInfo.fromPartial({ name: source, arch, cpuFlags, criuVersion, features }), to);
};

/** Those of a container that are complete, the newest first. */
export const completeCheckpoints = (cluster: Cluster, containerId: string): Checkpoint[] =>
  [...(cluster.index.checkpointsOf.get(containerId) ?? [])]
    .flatMap((id) => cluster.state.checkpoints[id] ?? [])
    .filter(({ state, superseded }) => state === CheckpointState.STORED && !superseded)
    .toSorted((a, b) => b.startedAtMs - a.startedAtMs || (a.id < b.id ? 1 : -1));

export const newestCheckpoint = (cluster: Cluster, containerId: string): Checkpoint | undefined =>
  completeCheckpoints(cluster, containerId)[0];
