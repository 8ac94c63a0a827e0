/** Opens what a scheduler keeps in JetStream, and rebuilds the state from it. */
import type { NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { EventLog, type EventStore } from "./event-log.ts";
import { JetStreamLog, type LogStore } from "./jetstream-log.ts";
import { Replica, sha256, type ReplicaStart } from "./replica.ts";
import { SnapshotStore } from "./snapshots.ts";
import { pause } from "./wait.ts";

const OPEN_DEADLINE_MS = 20_000;
const RETRY_MS = 200;

export interface OpenedLog {
  readonly log: LogStore & Pick<JetStreamLog, "onForeignAppend" | "servers">;
  readonly snapshots: Pick<SnapshotStore, "newest" | "save">;
  readonly events: EventStore;
  /** As of the newest snapshot; the log's later entries are still to be applied. */
  readonly replica: Replica;
  /** The newest whole snapshot, checked against the log. */
  readonly reload: () => Promise<ReplicaStart | undefined>;
}

/** nats-server answers to connections before JetStream has recovered its streams. */
const whenReady = async <T>(open: () => Promise<T>, logger: Logger): Promise<T> => {
  const startedMs = performance.now();
  for (let failures = 0; ; failures += 1) {
    try {
      return await open();
    } catch (error) {
      if (error instanceof GodwitError && error.code !== "unavailable") throw error;
      if (performance.now() - startedMs > OPEN_DEADLINE_MS)
        throw new GodwitError(
          "unavailable",
          `JetStream does not answer (${error instanceof Error ? error.message : String(error)}): is nats-server running, with jetstream enabled?`,
          { cause: error },
        );
      if (failures === 0) logger.warn({ err: error }, "JetStream is not ready; trying again");
      await pause(RETRY_MS, AbortSignal.timeout(OPEN_DEADLINE_MS));
    }
  }
};

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

export const openLog = async (
  connection: NatsConnection,
  options: { readonly replicas: number; readonly writer: string; readonly logger: Logger },
): Promise<OpenedLog> => {
  const { logger, replicas, writer } = options;
  return whenReady(async () => {
    const log = await JetStreamLog.open(connection, { replicas, writer });
    const snapshots = await SnapshotStore.open(connection, replicas, logger);
    const reload = (): Promise<ReplicaStart | undefined> => newestStart(log, snapshots);
    const replica = await restoreReplica(log, snapshots);
    const events = await EventLog.open(connection, replicas, logger);
    return { log, snapshots, events, replica, reload };
  }, logger);
};
