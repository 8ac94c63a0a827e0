/** The link to NATS as far as a scheduler speaks to others over it; the log goes its own way (jetstream-log.ts). */
import { RequestError, TimeoutError, type NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";
import { ConnectionWatch } from "./connection.ts";

export interface Incoming {
  readonly subject: string;
  readonly data: Uint8Array;
  /** Does nothing where no answer is waited for. */
  respond(bytes: Uint8Array): void;
}

/** "nobody": it is certain that nobody listens. "silence": somebody may, and did not answer in time. */
export type Answer =
  | { readonly kind: "answer"; readonly data: Uint8Array }
  | { readonly kind: "nobody" }
  | { readonly kind: "silence" };

/** How it stands with the connection. */
export interface LinkState {
  readonly connected: boolean;
  /** For good. */
  readonly closed: boolean;
  readonly disconnectedSinceMs: number | undefined;
  /** Calls at every reconnect, and when the connection is closed for good. */
  onReconnect(listener: () => void): Disposable;
}

export interface Link extends LinkState {
  /** Of the nats-server at the other end; empty while there is none. */
  readonly serverName: string;
  /** What NATS takes in one message. */
  readonly maxPayloadBytes: number;
  publish(subject: string, bytes: Uint8Array): void;
  subscribe(subject: string, take: (message: Incoming) => void): Disposable;
  /** Never rejects: a link that is down is silence. */
  ask(subject: string, bytes: Uint8Array, withinMs: number): Promise<Answer>;
  /** Resolves when the server has what was published. */
  flush(): Promise<void>;
}

export class NatsLink implements Link {
  readonly #connection: NatsConnection;
  readonly #watch: ConnectionWatch;
  readonly #logger: Logger;

  constructor(connection: NatsConnection, nowMs: () => number, logger: Logger) {
    this.#connection = connection;
    this.#watch = new ConnectionWatch(connection, nowMs);
    this.#logger = logger;
  }

  get connected(): boolean {
    return this.#watch.connected;
  }
  get closed(): boolean {
    return this.#watch.closed;
  }
  get disconnectedSinceMs(): number | undefined {
    return this.#watch.disconnectedSinceMs;
  }
  onReconnect(listener: () => void): Disposable {
    return this.#watch.onReconnect(listener);
  }
  get serverName(): string {
    return this.connected ? (this.#connection.info?.server_name ?? "") : "";
  }
  get maxPayloadBytes(): number {
    return this.#connection.info?.max_payload ?? Infinity;
  }

  publish(subject: string, bytes: Uint8Array): void {
    this.#connection.publish(subject, bytes);
  }

  subscribe(subject: string, take: (message: Incoming) => void): Disposable {
    const subscription = this.#connection.subscribe(subject, {
      callback: (error, message) => {
        if (error !== null) this.#logger.error({ err: error, subject }, "messages cannot be received");
        else
          take({
            subject: message.subject,
            data: message.data,
            respond: (bytes) => void message.respond(bytes),
          });
      },
    });
    return { [Symbol.dispose]: () => subscription.unsubscribe() };
  }

  async ask(subject: string, bytes: Uint8Array, withinMs: number): Promise<Answer> {
    try {
      const { data } = await this.#connection.request(subject, bytes, { timeout: withinMs });
      return { kind: "answer", data };
    } catch (error) {
      if (error instanceof RequestError && error.isNoResponders()) return { kind: "nobody" };
      if (!(error instanceof TimeoutError))
        this.#logger.debug({ err: error, subject }, "a question was not answered");
      return { kind: "silence" };
    }
  }

  async flush(): Promise<void> {
    await this.#connection.flush();
  }
}
