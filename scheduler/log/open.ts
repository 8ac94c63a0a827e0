/** Opens what a scheduler keeps in JetStream, and rebuilds the state from it. */
import type { NatsConnection, NodeConnectionOptions } from "@nats-io/transport-node";
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { EventLog, type EventStore } from "./event-log.ts";
import { JetStreamLog } from "./jetstream-log.ts";
import type { LogStore } from "./log-store.ts";
import type { Replica, ReplicaStart } from "./replica.ts";
import { newestStart, restoreReplica } from "./restore.ts";
import type { MakeSnapshot } from "./snapshot-making.ts";
import { snapshotThread } from "./snapshot-thread.ts";
import { SnapshotStore } from "./snapshots.ts";
import { pause } from "./wait.ts";

const OPEN_DEADLINE_MS = 20_000;
const RETRY_MS = 200;

export interface OpenedLog {
  readonly log: LogStore & Pick<JetStreamLog, "onForeignAppend" | "servers">;
  readonly snapshots: Pick<SnapshotStore, "save">;
  readonly makeSnapshot: MakeSnapshot;
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

export const openLog = async (
  connection: NatsConnection,
  options: {
    readonly replicas: number;
    readonly writer: string;
    readonly logger: Logger;
    /** What `connection` was made with. */
    readonly settings: NodeConnectionOptions;
  },
): Promise<OpenedLog> => {
  const { logger, replicas, settings, writer } = options;
  return whenReady(async () => {
    const log = await JetStreamLog.open(connection, { replicas, writer });
    const snapshots = await SnapshotStore.open(connection, replicas, logger);
    const reload = (): Promise<ReplicaStart | undefined> => newestStart(log, snapshots);
    const replica = await restoreReplica(log, snapshots);
    const events = await EventLog.open(connection, replicas, logger);
    const makeSnapshot = snapshotThread({ settings, replicas }, logger);
    return { log, snapshots, makeSnapshot, events, replica, reload };
  }, logger);
};
