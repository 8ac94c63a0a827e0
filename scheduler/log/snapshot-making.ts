/**
 * A snapshot is made from the one before and the log, not from a leader's memory: the state machine is deterministic,
 * so it comes out the same, and whoever makes it may take his time without holding anybody up.
 */
import type { LogStore } from "./log-store.ts";
import { restoreReplica } from "./restore.ts";
import { takeSnapshot, type SnapshotSaved, type SnapshotStore } from "./snapshots.ts";

/** Stores the state as of that entry, or a later one that is there already. */
export type MakeSnapshot = (sequence: number, signal: AbortSignal) => Promise<SnapshotSaved>;

export const makeSnapshot = async (
  log: LogStore,
  snapshots: Pick<SnapshotStore, "newest" | "save">,
  sequence: number,
): Promise<SnapshotSaved> => {
  const replica = await restoreReplica(log, snapshots);
  for await (const entry of log.read(replica.sequence + 1, sequence)) replica.apply(entry);
  return snapshots.save(takeSnapshot(replica));
};
