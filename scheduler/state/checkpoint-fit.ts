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

/** The newest that is complete. */
export const newestCheckpoint = (cluster: Cluster, containerId: string): Checkpoint | undefined => {
  let newest: Checkpoint | undefined;
  for (const id of cluster.index.checkpointsOf.get(containerId) ?? []) {
    const one = cluster.state.checkpoints[id];
    if (one?.state !== CheckpointState.STORED) continue;
    const isNewer =
      newest === undefined ||
      one.startedAtMs > newest.startedAtMs ||
      (one.startedAtMs === newest.startedAtMs && one.id > newest.id);
    if (isNewer) newest = one;
  }
  return newest;
};
