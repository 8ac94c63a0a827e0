import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";

import type { Msg, NatsConnection, Subscription } from "@nats-io/transport-node";
import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import { logsStopSubject, logsSubject } from "../../proto/contract/subjects.ts";
import { LogsOpen, LogsOpened } from "../../proto/gen/godwit/v1/agent.ts";
import { checkOutputSubject, hasListener } from "../exec/output-subject.ts";
import { type EndReason, LogSession } from "./log-session.ts";

export interface LogsServiceOptions {
  readonly connection: NatsConnection;
  readonly node: string;
  /** Where the container's log is; undefined: the container is not on this host. */
  directoryOf(containerId: string): string | undefined;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  /** How often it is asked whether a session's client is still there. Default 10,000. */
  readonly presenceIntervalMs?: number;
}

export interface LogsService extends AsyncDisposable {
  /**
   * The container left this host (or will write no more: "done"): who follows its log gets what is there still,
   * and then `end` with this reason. Resolves when they have it; the log may be removed then.
   */
  end(containerId: string, reason: EndReason): Promise<void>;
}

/** Sessions hold a folder watch and an open subscription each. */
const SESSIONS_PER_NODE = 256;
const PRESENCE_INTERVAL_MS = 10_000;
/** One look may fall into the moment in which a client is connecting again. */
const ABSENCES_UNTIL_GONE = 2;
/** What is left of a log, 16 MiB at most, is sent within this time or cut off. */
const FINISH_WITHIN_MS = 5_000;

/** Answers `logs` requests of this node until it is disposed or `signal` aborts. */
export async function serveLogs(options: LogsServiceOptions): Promise<LogsService> {
  options.signal.throwIfAborted();
  const service = new Service(options);
  // The answer to this passes the server after our subscription has: from here on, requests are answered.
  await options.connection.flush();
  return service;
}

class Service implements LogsService {
  readonly #options: LogsServiceOptions;
  readonly #sessions = new Map<LogSession, Promise<void>>();
  readonly #stopping = new AbortController();
  readonly #requests: Subscription;
  readonly #onAbort: () => void;

  constructor(options: LogsServiceOptions) {
    this.#options = options;
    this.#requests = options.connection.subscribe(logsSubject(options.node), {
      callback: (error, message) => {
        if (error === null) this.#serve(message);
        else options.logger.error({ err: error }, "requests for logs cannot be received");
      },
    });
    this.#onAbort = (): void => this.#stop();
    options.signal.addEventListener("abort", this.#onAbort);
    void this.#watchPresence(this.#stopping.signal);
    void this.#watchConnection();
  }

  async end(containerId: string, reason: EndReason): Promise<void> {
    const own = [...this.#sessions].filter(([session]) => session.containerId === containerId);
    for (const [session] of own) session.finish(reason);
    const ended = Promise.all(own.map(([, run]) => run));
    const timer = setTimeout(() => {
      for (const [session] of own) session.stop(reason);
    }, FINISH_WITHIN_MS);
    await ended;
    clearTimeout(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop();
    await Promise.all(this.#sessions.values());
  }

  #stop(): void {
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    this.#stopping.abort();
    this.#requests.unsubscribe();
    for (const session of this.#sessions.keys()) session.stop("the agent of the node is stopping");
  }

  #serve(message: Msg): void {
    const { connection, node, logger } = this.#options;
    let session: LogSession;
    let stop: Subscription;
    try {
      session = this.#admit(message.data);
      const stopSubject = logsStopSubject(node, randomBytes(8).toString("hex"));
      stop = connection.subscribe(stopSubject, { max: 1, callback: () => session.stop("done") });
      message.respond(LogsOpened.encode({ error: "", stopSubject }).finish());
    } catch (error) {
      const refusal = GodwitError.from(error).message;
      if (!connection.isClosed())
        message.respond(LogsOpened.encode({ error: refusal, stopSubject: "" }).finish());
      return;
    }
    const run = session
      .run()
      .catch((error: unknown) => {
        // Only the connection can fail here, and then there is nobody to tell.
        logger.debug({ err: error, container: session.containerId }, "a log's reader was lost");
      })
      .finally(() => {
        stop.unsubscribe();
        this.#sessions.delete(session);
      });
    this.#sessions.set(session, run);
  }

  #admit(request: Uint8Array): LogSession {
    const open = decodeOpen(request);
    checkOutputSubject(open.outputSubject);
    if (this.#stopping.signal.aborted)
      throw new GodwitError("unavailable", "the agent of the node is stopping");
    const directory = this.#options.directoryOf(open.containerId);
    if (directory === undefined) {
      throw new GodwitError("not-found", `container ${open.containerId} is not on this node`);
    }
    if (this.#sessions.size >= SESSIONS_PER_NODE) {
      throw new GodwitError("exhausted", `${SESSIONS_PER_NODE} logs of this node are being read already`);
    }
    return new LogSession(this.#options.connection, open, directory);
  }

  /** A client that died without a word is noticed by nobody listening to its session's output. */
  async #watchPresence(signal: AbortSignal): Promise<void> {
    const absences = new WeakMap<LogSession, number>();
    while (!signal.aborted) {
      const intervalMs = this.#options.presenceIntervalMs ?? PRESENCE_INTERVAL_MS;
      await delay(intervalMs, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      const look = async (session: LogSession): Promise<void> => {
        const present = await hasListener(this.#options.connection, session.outputSubject);
        const absent = present ? 0 : (absences.get(session) ?? 0) + 1;
        absences.set(session, absent);
        if (absent < ABSENCES_UNTIL_GONE) return;
        this.#options.logger.info({ container: session.containerId }, "the reader of a log has gone");
        session.stop("the client has gone");
      };
      await Promise.all([...this.#sessions.keys()].map(look));
    }
  }

  /** Chunks that were on their way when the connection broke may be lost: the client reads on from its offset. */
  async #watchConnection(): Promise<void> {
    for await (const { type } of this.#options.connection.status()) {
      if (this.#stopping.signal.aborted) return;
      if (type !== "reconnect" && type !== "close") continue;
      for (const session of this.#sessions.keys())
        session.stop("the node's connection to NATS was interrupted");
    }
  }
}

function decodeOpen(bytes: Uint8Array): LogsOpen {
  try {
    return LogsOpen.decode(bytes);
  } catch (cause) {
    throw new GodwitError("invalid", "the request is no LogsOpen", { cause });
  }
}
