/** The state as of the newest snapshot, checked against the log that is to go on from it. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { LogStore } from "./log-store.ts";
import { Replica, sha256, type ReplicaStart } from "./replica.ts";
import type { SnapshotStore } from "./snapshots.ts";

/**
 * The newest whole snapshot, once it is clear that the log goes on from there; without one the log has to be there from
 * its first entry on.
 * @public for the simulation, which opens logs of its own
 */
export const newestStart = async (
  log: LogStore,
  snapshots: Pick<SnapshotStore, "newest">,
): Promise<ReplicaStart | undefined> => {
  const { named, start } = await snapshots.newest();
  const { first, last } = await log.bounds();
  const sequence = start?.sequence ?? 0;
  if (last < named)
    throw new GodwitError(
      "corrupt",
      `the log ends with entry ${last}, before the snapshot of entry ${named}: it lost entries or was replaced by an older copy`,
    );
  if (last > sequence && first > sequence + 1) {
    await unlessNewer(snapshots, sequence);
    throw new GodwitError(
      "corrupt",
      `the log begins with entry ${first}, and ${start === undefined ? "there is no whole snapshot" : `the newest whole snapshot is of entry ${sequence}`}: the entries between are lost`,
    );
  }
  if (start !== undefined && first <= sequence) {
    const covered = await log.readOne(sequence);
    if (covered === undefined) await unlessNewer(snapshots, sequence);
    if (covered === undefined || !sha256(covered.bytes).equals(start.chainHash))
      throw new GodwitError("corrupt", `the snapshot of entry ${sequence} was not made from this log`);
  }
  return start;
};

/** A leader goes on while this is read: what is missing may have been trimmed behind a snapshot that it has just taken. */
const unlessNewer = async (snapshots: Pick<SnapshotStore, "newest">, sequence: number): Promise<void> => {
  const { start } = await snapshots.newest();
  if ((start?.sequence ?? 0) > sequence)
    throw new GodwitError(
      "unavailable",
      `a snapshot newer than that of entry ${sequence} was taken meanwhile`,
    );
};

/** The replica as of the newest whole snapshot; the log's later entries are still to be applied. */
export const restoreReplica = async (
  log: LogStore,
  snapshots: Pick<SnapshotStore, "newest">,
): Promise<Replica> => new Replica(await newestStart(log, snapshots));
