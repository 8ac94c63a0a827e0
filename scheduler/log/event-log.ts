/** The cluster's history for operators: a bounded JetStream stream that the leader writes after each commit. */
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
} from "@nats-io/jetstream";
import { nanos, type NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { EVENT_STREAM, EVENT_SUBJECT } from "../../proto/contract/subjects.ts";
import { Event } from "../../proto/gen/godwit/v1/api.ts";
import { pause } from "./wait.ts";

const KEPT_EVENTS = 10_000;
const ATTEMPT_MS = 2_000;
/** A leader that was away for less does not publish anything twice. */
const REPEAT_WINDOW_MS = 24 * 3_600_000;
const RETRY_MS = 250;
const READ_AHEAD = 128;
/** How often a follower looks without having been told of anything. */
const FOLLOW_MS = 1_000;
const READ_DEADLINE_MS = 15_000;

interface Pending {
  readonly event: Event;
  /** The same for everybody who derives the event from the log, so JetStream keeps it once. */
  readonly id: string;
}

/** What a scheduler needs of its events. */
export interface EventStore extends AsyncDisposable {
  add(events: readonly Event[]): void;
  start(): void;
  stop(): void;
  events(options: { sinceMs: number; follow: boolean; signal: AbortSignal }): AsyncIterable<Event>;
}

/** Log sequence of the newest event in the stream; 0: there is none. */
const newestSequence = async (manager: JetStreamManager): Promise<number> => {
  try {
    const last = await manager.streams.getMessage(EVENT_STREAM, { last_by_subj: EVENT_SUBJECT });
    return last === null ? 0 : Event.decode(last.data).sequence;
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.NoMessageFound) return 0;
    throw error;
  }
};

export class EventLog implements EventStore {
  readonly #client: JetStreamClient;
  readonly #manager: JetStreamManager;
  readonly #logger: Logger;
  readonly #stop = new AbortController();
  /** Log sequence of the newest event in the stream when it was opened. */
  #knownUpTo: number;
  /** Somebody else may have published meanwhile. */
  #isKnown = true;
  #pending: Pending[] = [];
  #publishing = false;
  #wake = Promise.withResolvers<void>();
  #published = Promise.withResolvers<void>();
  readonly #loop: Promise<void>;

  private constructor(client: JetStreamClient, manager: JetStreamManager, knownUpTo: number, logger: Logger) {
    this.#client = client;
    this.#manager = manager;
    this.#knownUpTo = knownUpTo;
    this.#logger = logger;
    this.#loop = this.#run();
  }

  static async open(connection: NatsConnection, replicas: number, logger: Logger): Promise<EventLog> {
    const manager = await jetstreamManager(connection, { timeout: ATTEMPT_MS });
    try {
      await manager.streams.info(EVENT_STREAM);
    } catch (error) {
      if (!(error instanceof JetStreamApiError) || error.code !== JetStreamApiCodes.StreamNotFound)
        throw error;
      await manager.streams.add({
        name: EVENT_STREAM,
        subjects: [EVENT_SUBJECT],
        storage: StorageType.File,
        retention: RetentionPolicy.Limits,
        discard: DiscardPolicy.Old,
        max_msgs: KEPT_EVENTS,
        num_replicas: replicas,
        duplicate_window: nanos(REPEAT_WINDOW_MS),
      });
    }
    const knownUpTo = await newestSequence(manager);
    return new EventLog(jetstream(connection, { timeout: ATTEMPT_MS }), manager, knownUpTo, logger);
  }

  /** Remembers events, to be published as soon as `start` was called. */
  add(events: readonly Event[]): void {
    for (const [at, event] of events.entries()) {
      // An entry's events may have been published in part, so those of the last known entry are repeated.
      if (event.sequence < this.#knownUpTo) continue;
      this.#pending.push({ event, id: `${event.sequence}.${at}` });
    }
    // More would push each other out of the stream anyway.
    if (this.#pending.length > KEPT_EVENTS) this.#pending.splice(0, this.#pending.length - KEPT_EVENTS);
    this.#wake.resolve();
  }
  /** Publishes from here on: for leaders only. */
  start(): void {
    this.#publishing = true;
    this.#isKnown = false;
    this.#wake.resolve();
  }
  stop(): void {
    this.#publishing = false;
    this.#pending = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#wake.resolve();
    this.#published.resolve();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let failures = 0;
    while (!signal.aborted) {
      const next = this.#publishing ? this.#pending[0] : undefined;
      if (next === undefined) {
        await this.#wake.promise;
        this.#wake = Promise.withResolvers<void>();
        continue;
      }
      try {
        if (!this.#isKnown) {
          this.#knownUpTo = Math.max(this.#knownUpTo, await newestSequence(this.#manager));
          this.#pending = this.#pending.filter(({ event }) => event.sequence >= this.#knownUpTo);
          this.#isKnown = true;
          continue;
        }
        await this.#client.publish(EVENT_SUBJECT, Event.encode(next.event).finish(), {
          msgID: next.id,
          timeout: ATTEMPT_MS,
        });
        if (this.#pending[0] === next) this.#pending.shift();
        this.#published.resolve();
        this.#published = Promise.withResolvers<void>();
        failures = 0;
      } catch (error) {
        if (failures === 0) this.#logger.warn({ err: error }, "events cannot be published; trying again");
        failures += 1;
        await pause(RETRY_MS, signal);
      }
    }
  }

  async #read(sequence: number): Promise<Event | undefined> {
    try {
      const stored = await this.#manager.streams.getMessage(EVENT_STREAM, { seq: sequence });
      return stored === null ? undefined : Event.decode(stored.data);
    } catch (error) {
      if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.NoMessageFound)
        return undefined;
      throw error;
    }
  }

  /** All events not older than `sinceMs`, oldest first; with `follow` also those to come. Ends when the signal aborts. */
  async *events(options: { sinceMs: number; follow: boolean; signal: AbortSignal }): AsyncGenerator<Event> {
    const { sinceMs, follow } = options;
    const signal = AbortSignal.any([options.signal, this.#stop.signal]);
    let next = 1;
    let failingSinceMs: number | undefined;
    while (!signal.aborted) {
      const published = this.#published.promise;
      let batch: (Event | undefined)[];
      let ended: boolean;
      try {
        const { first_seq: first, last_seq: last } = (await this.#manager.streams.info(EVENT_STREAM)).state;
        next = Math.max(next, first);
        const count = Math.min(READ_AHEAD, last - next + 1);
        batch = await Promise.all(
          Array.from({ length: Math.max(0, count) }, (_, offset) => this.#read(next + offset)),
        );
        next += batch.length;
        ended = next > last;
        failingSinceMs = undefined;
      } catch (error) {
        failingSinceMs ??= performance.now();
        if (!follow && performance.now() - failingSinceMs > READ_DEADLINE_MS)
          throw new GodwitError("unavailable", "the events cannot be read: check nats-server and try again", {
            cause: error,
          });
        await pause(RETRY_MS, signal);
        continue;
      }
      for (const event of batch) {
        if (signal.aborted) return;
        if (event !== undefined && event.atMs >= sinceMs) yield event;
      }
      if (!ended) continue;
      if (!follow) return;
      const timeUp = new AbortController();
      await Promise.race([published, pause(FOLLOW_MS, AbortSignal.any([signal, timeUp.signal]))]);
      timeUp.abort();
    }
  }
}
