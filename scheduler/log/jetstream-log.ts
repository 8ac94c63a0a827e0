/** The replicated log as a JetStream stream: the only file that talks to it. */
import {
  DiscardPolicy,
  jetstream,
  JetStreamApiCodes,
  JetStreamApiError,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type JetStreamClient,
  type JetStreamManager,
  type StreamConfig,
} from "@nats-io/jetstream";
import { headers, type NatsConnection } from "@nats-io/transport-node";
import { GodwitError } from "../../proto/contract/error.ts";
import type { LogServer } from "../public.ts";
import { LOG_STREAM, LOG_SUBJECT } from "../../proto/contract/subjects.ts";
import type { AppendResult, Bounds, LogStore, StoredEntry } from "./log-store.ts";
import { readEntries } from "./read-entries.ts";

const ATTEMPT_MS = 2_000;
const WRITER_HEADER = "Godwit-Writer";

const isConflict = (error: unknown): boolean =>
  error instanceof JetStreamApiError &&
  (error.code === JetStreamApiCodes.StreamWrongLastSequence ||
    error.code === JetStreamApiCodes.StreamWrongLastSequenceUnknown);
const isMissing = (error: unknown, code: number): boolean =>
  error instanceof JetStreamApiError && error.code === code;

const wantedConfig = (replicas: number): Partial<StreamConfig> & { name: string } => ({
  name: LOG_STREAM,
  subjects: [LOG_SUBJECT],
  description: "Godwit's control state, entry by entry. Do not publish here.",
  storage: StorageType.File,
  retention: RetentionPolicy.Limits,
  discard: DiscardPolicy.New,
  max_msgs: -1,
  max_bytes: -1,
  max_age: 0,
  num_replicas: replicas,
  deny_delete: true,
  deny_purge: false,
  allow_rollup_hdrs: false,
});

/** Makes the stream, or checks that the one that is there can carry a log. */
const ensureStream = async (manager: JetStreamManager, replicas: number): Promise<void> => {
  const wanted = wantedConfig(replicas);
  let config: StreamConfig;
  try {
    ({ config } = await manager.streams.info(LOG_STREAM));
  } catch (error) {
    if (!isMissing(error, JetStreamApiCodes.StreamNotFound)) throw error;
    ({ config } = await manager.streams.add(wanted));
  }
  const unfit =
    config.storage !== StorageType.File ||
    config.subjects.join() !== LOG_SUBJECT ||
    config.retention !== RetentionPolicy.Limits ||
    config.max_msgs > 0 ||
    config.max_bytes > 0 ||
    config.max_age > 0;
  if (unfit)
    throw new GodwitError(
      "refused",
      `the stream ${LOG_STREAM} was not made by Godwit and may lose entries: remove it, or use another NATS account`,
    );
  if (config.num_replicas !== replicas) await manager.streams.update(LOG_STREAM, { num_replicas: replicas });
};

export class JetStreamLog implements LogStore {
  readonly #connection: NatsConnection;
  readonly #client: JetStreamClient;
  readonly #manager: JetStreamManager;
  /** Tells this writer's entries from others' as they pass by. */
  readonly #writer: string;

  private constructor(connection: NatsConnection, manager: JetStreamManager, writer: string) {
    this.#connection = connection;
    this.#client = jetstream(connection, { timeout: ATTEMPT_MS });
    this.#manager = manager;
    this.#writer = writer;
  }

  static async open(
    connection: NatsConnection,
    options: { replicas: number; writer: string },
  ): Promise<JetStreamLog> {
    const manager = await jetstreamManager(connection, { timeout: ATTEMPT_MS });
    await ensureStream(manager, options.replicas);
    return new JetStreamLog(connection, manager, options.writer);
  }

  /** The servers that keep a copy. */
  async servers(): Promise<LogServer[]> {
    const { cluster } = await this.#manager.streams.info(LOG_STREAM);
    const name = this.#connection.info?.server_name ?? "";
    // A server that stands alone does not speak of a cluster.
    if (cluster?.leader === undefined) return [{ name, leads: true, current: true, lag: 0 }];
    return [
      { name: cluster.leader, leads: true, current: true, lag: 0 },
      ...(cluster.replicas ?? []).map(({ name, current, offline, lag }) => ({
        name,
        leads: false,
        current: current && offline !== true,
        lag: lag ?? 0,
      })),
    ].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  async bounds(): Promise<Bounds> {
    const { state } = await this.#manager.streams.info(LOG_STREAM);
    return { first: state.first_seq, last: state.last_seq };
  }

  /** Asks the stream's leader, so what it answered to an append is seen. */
  async readOne(sequence: number): Promise<StoredEntry | undefined> {
    try {
      const stored = await this.#manager.streams.getMessage(LOG_STREAM, { seq: sequence });
      return stored === null ? undefined : { sequence: stored.seq, bytes: stored.data };
    } catch (error) {
      if (isMissing(error, JetStreamApiCodes.NoMessageFound)) return undefined;
      throw error;
    }
  }

  read(from: number, to: number): AsyncGenerator<StoredEntry> {
    return readEntries(this, from, to);
  }

  async append(bytes: Uint8Array, expectedLast: number): Promise<AppendResult> {
    const marked = headers();
    marked.set(WRITER_HEADER, this.#writer);
    try {
      const ack = await this.#client.publish(LOG_SUBJECT, bytes, {
        headers: marked,
        expect: { streamName: LOG_STREAM, lastSequence: expectedLast },
        timeout: ATTEMPT_MS,
      });
      if (ack.seq !== expectedLast + 1)
        throw new GodwitError(
          "corrupt",
          `the log stored an entry as ${ack.seq} that was to follow ${expectedLast}`,
        );
      return { kind: "stored", sequence: ack.seq };
    } catch (error) {
      if (isConflict(error)) return { kind: "conflict" };
      throw error;
    }
  }

  async trimBefore(sequence: number): Promise<void> {
    await this.#manager.streams.purge(LOG_STREAM, { seq: sequence });
  }

  /** Calls back when somebody else may have appended. Only a hint: it may be missed, and the append may have failed. */
  onForeignAppend(notice: () => void): Disposable {
    const subscription = this.#connection.subscribe(LOG_SUBJECT, {
      callback: (error, message) => {
        if (error === null && message.headers?.get(WRITER_HEADER) !== this.#writer) notice();
      },
    });
    return { [Symbol.dispose]: () => subscription.unsubscribe() };
  }
}
