/**
 * Messages of one session's own subject, in a queue that does not grow without bound: core NATS knows no flow
 * control, so what arrives faster than it is taken has to be noticed here.
 */
import { randomBytes } from "node:crypto";
import type { NatsConnection } from "@nats-io/transport-node";
import { sessionOutputSubject } from "../../../proto/contract/subjects.ts";

export interface InboxMessage {
  readonly data: Uint8Array;
}

export class Inbox implements Disposable {
  readonly subject: string;
  readonly #maxBytes: number;
  readonly #unsubscribe: () => void;
  readonly #queue: InboxMessage[] = [];
  #queuedBytes = 0;
  #overflowed = false;
  #failure: unknown;
  #wake: (() => void) | undefined;

  constructor(connection: NatsConnection, maxBytes: number) {
    this.subject = sessionOutputSubject(randomBytes(12).toString("hex"));
    this.#maxBytes = maxBytes;
    const subscription = connection.subscribe(this.subject, {
      callback: (error, message) => {
        if (error === null) this.#take({ data: message.data });
        else this.#failure = error;
        this.#wake?.();
      },
    });
    this.#unsubscribe = () => subscription.unsubscribe();
  }

  /** More arrived than fits; everything after the queued messages is lost. */
  get overflowed(): boolean {
    return this.#overflowed;
  }

  /** The next message; undefined when none has arrived and `signal` aborts or the inbox overflowed. */
  async next(signal: AbortSignal): Promise<InboxMessage | undefined> {
    for (;;) {
      const message = this.#queue.shift();
      if (message !== undefined) {
        this.#queuedBytes -= message.data.length;
        return message;
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#overflowed || signal.aborted) return undefined;
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = (): void => resolve();
      this.#wake = wake;
      signal.addEventListener("abort", wake, { once: true });
      await promise;
      signal.removeEventListener("abort", wake);
      this.#wake = undefined;
    }
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
    this.#queue.length = 0;
  }

  #take(message: InboxMessage): void {
    if (this.#overflowed) return;
    if (this.#queuedBytes + message.data.length > this.#maxBytes) {
      this.#overflowed = true;
      return;
    }
    this.#queuedBytes += message.data.length;
    this.#queue.push(message);
  }
}
