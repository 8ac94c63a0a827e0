import type { NatsConnection } from "@nats-io/transport-node";

/**
 * Options for the connection that a scheduler is given. nats-server may be killed and come back at any time, so the
 * client never gives up; a proposal's own deadline bounds how long anybody waits for it.
 */
export const connectionOptions = {
  reconnect: true,
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
  reconnectJitter: 50,
  // A peer that vanished without closing its socket is noticed after two unanswered pings.
  pingInterval: 5_000,
  maxPingOut: 2,
  // A stack for each request, made in case it fails: appends are requests.
  noAsyncTraces: true,
} as const;

/** Follows the state of a connection. A request that was under way when it broke will not be answered any more. */
export class ConnectionWatch {
  readonly #connection: NatsConnection;
  #disconnectedSinceMs: number | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(connection: NatsConnection, nowMs: () => number) {
    this.#connection = connection;
    void this.#follow(nowMs);
  }

  get connected(): boolean {
    return this.#disconnectedSinceMs === undefined && !this.#connection.isClosed();
  }
  get closed(): boolean {
    return this.#connection.isClosed();
  }
  get disconnectedSinceMs(): number | undefined {
    return this.#disconnectedSinceMs;
  }
  /** Calls at every reconnect, and when the connection is closed for good. */
  onReconnect(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  async #follow(nowMs: () => number): Promise<void> {
    for await (const status of this.#connection.status()) {
      if (status.type === "disconnect") this.#disconnectedSinceMs ??= nowMs();
      else if (status.type === "reconnect") {
        this.#disconnectedSinceMs = undefined;
        this.#tell();
      }
    }
    this.#tell();
  }
  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}
