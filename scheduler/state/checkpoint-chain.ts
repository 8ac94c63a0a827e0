/** Checkpoints that hold only what differs from the one before. Pure. */
import type { Checkpoint } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import type { Cluster } from "./cluster.ts";

/** At most so many, of which the first holds everything: what is gone on from is read in full, one after the other. */
export const LONGEST_CHAIN = 12;

/** All that is needed to go on from it: the one that holds everything first, itself last. Empty: some is missing. */
export const chainOf = (cluster: Cluster, id: string): Checkpoint[] => {
  const chain: Checkpoint[] = [];
  for (let next = id; next !== "";) {
    const one = cluster.state.checkpoints[next];
    if (one === undefined || chain.length === LONGEST_CHAIN) return [];
    chain.push(one);
    next = one.baseId;
  }
  return chain.reverse();
};

/** Whether another one builds upon it, or is being taken to. */
export const isBuiltUpon = (cluster: Cluster, { containerId, id }: Checkpoint): boolean =>
  [...(cluster.index.checkpointsOf.get(containerId) ?? [])].some(
    (other) => cluster.state.checkpoints[other]?.baseId === id,
  );

const keepTheSame = (one: readonly string[], other: readonly string[]): boolean =>
  one.length === other.length && one.every((keeper) => other.includes(keeper));

/** Why a new checkpoint of the same container cannot build upon it; undefined: it can. */
export const baseFault = (
  cluster: Cluster,
  baseId: string,
  { containerId, epoch, keepers }: Pick<Checkpoint, "containerId" | "epoch" | "keepers">,
): string | undefined => {
  const chain = chainOf(cluster, baseId);
  const base = chain.at(-1);
  if (base === undefined || base.containerId !== containerId || base.state !== CheckpointState.STORED)
    return `there is no complete checkpoint ${baseId} to build upon`;
  if (base.epoch !== epoch) return `checkpoint ${baseId} is of an earlier stay of the container`;
  if (!keepTheSame(base.keepers, keepers)) return `checkpoint ${baseId} is kept by others`;
  return chain.length >= LONGEST_CHAIN ? `too many build upon one another up to ${baseId}` : undefined;
};
