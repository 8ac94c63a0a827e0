import type { NatsConnection, QueuedIterator, Status } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";

type Tell = (error: Error | void) => void;
const told = new WeakMap<NatsConnection, Set<Tell>>();

/**
 * The connection lives as long as its agent: were each stream to wait for the promise of its end, that would hold all
 * streams that ever were, with their buffers.
 */
function toldWhenClosed(connection: NatsConnection): Set<Tell> {
  const known = told.get(connection);
  if (known !== undefined) return known;
  const tells = new Set<Tell>();
  told.set(connection, tells);
  void connection.closed().then((error) => {
    for (const tell of tells) tell(error);
  });
  return tells;
}

/**
 * What both ends need of NATS: publish on one subject, hear the other, and be told when the connection
 * came back or ended for good. `closed` is called at most once, `reconnected` after each reconnect.
 */
export class Link implements Disposable {
  readonly #connection: NatsConnection;
  readonly #publishSubject: string;
  readonly #statuses: Partial<QueuedIterator<Status>>;
  readonly #subscription: { unsubscribe(): void };
  readonly #untell: () => void;
  #open = true;

  private constructor(
    connection: NatsConnection,
    publishSubject: string,
    hearSubject: string,
    on: { message(bytes: Uint8Array): void; reconnected(): void; closed(error: GodwitError): void },
  ) {
    this.#connection = connection;
    this.#publishSubject = publishSubject;
    this.#subscription = connection.subscribe(hearSubject, {
      callback: (error, message) => {
        if (!this.#open) return;
        if (error !== null)
          on.closed(new GodwitError("unavailable", `NATS: ${error.message}`, { cause: error }));
        else on.message(message.data);
      },
    });
    const statuses = connection.status();
    this.#statuses = statuses as Partial<QueuedIterator<Status>>;
    void (async () => {
      for await (const status of statuses) if (this.#open && status.type === "reconnect") on.reconnected();
    })();
    const tell: Tell = (error) => {
      if (!this.#open) return;
      const options = error instanceof Error ? { cause: error } : {};
      on.closed(new GodwitError("unavailable", "the connection to NATS is closed", options));
    };
    const tells = toldWhenClosed(connection).add(tell);
    this.#untell = () => tells.delete(tell);
  }

  /** Resolves once the server knows of the subscription. */
  static async open(
    connection: NatsConnection,
    publishSubject: string,
    hearSubject: string,
    on: { message(bytes: Uint8Array): void; reconnected(): void; closed(error: GodwitError): void },
  ): Promise<Link> {
    if (connection.isClosed()) throw new GodwitError("unavailable", "the connection to NATS is closed");
    const link = new Link(connection, publishSubject, hearSubject, on);
    try {
      await connection.flush();
    } catch (error) {
      link[Symbol.dispose]();
      throw GodwitError.from(error, "unavailable");
    }
    return link;
  }

  /** Does not wait, and loses the message if there is no connection: the protocol above mends that. */
  publish(bytes: Uint8Array): void {
    if (this.#open && !this.#connection.isClosed()) this.#connection.publish(this.#publishSubject, bytes);
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#untell();
    this.#statuses.stop?.();
    if (!this.#connection.isClosed()) this.#subscription.unsubscribe();
  }
}
