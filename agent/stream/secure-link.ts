import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { migrationCreditSubject, migrationDataSubject } from "../../proto/contract/subjects.ts";
import type { Clock } from "./clock.ts";
import { Handshake, HELLO_KIND, type StreamEnds } from "./handshake.ts";
import { Link } from "./link.ts";
import {
  Opener,
  readSealed,
  SEAL_HEAD_BYTES,
  SEAL_TAG_BYTES,
  SealedKind,
  Sealer,
  type SealedMessage,
} from "./sealing.ts";

/** A peer that cannot prove who it is gets this long to be replaced by one that can. */
const IMPOSTOR_PATIENCE_MS = 10_000;
const SMALL_BYTES = 8 * 1024;

interface SecureLinkListener {
  /** Once: messages can be sealed and opened from now on. */
  established(): void;
  /** A chunk: to be opened by the listener, where it wants it. */
  chunk(message: SealedMessage): void;
  /** A credit or a control message that is the peer's, and newer than all of its kind before it. */
  small(kind: SealedKind, content: Uint8Array): void;
  reconnected(): void;
  closed(error: GodwitError): void;
}

/**
 * A Link whose messages only the two ends can read and make. What others publish on its subjects is dropped as if it
 * had been lost on the way; so is what is repeated or overtaken, for messages other than chunks.
 */
export class SecureLink implements Disposable {
  readonly #ends: StreamEnds;
  readonly #handshake: Handshake;
  readonly #clock: Clock;
  readonly #listener: SecureLinkListener;
  #link: Link | undefined;
  #sealer: Sealer | undefined;
  #opener: Opener | undefined;
  #impostorSinceMs: number | undefined;
  #nextNumber = 0;
  readonly #heardNumber = new Map<SealedKind, number>();
  /** On the wire, with hellos and what came from others. */
  sentBytes = 0;
  receivedBytes = 0;

  private constructor(ends: StreamEnds, clock: Clock, listener: SecureLinkListener) {
    this.#ends = ends;
    this.#handshake = new Handshake(ends);
    this.#clock = clock;
    this.#listener = listener;
  }

  /** Resolves once the server knows of the subscription; the peer need not be there yet. */
  static async open(
    connection: NatsConnection,
    ends: StreamEnds,
    clock: Clock,
    listener: SecureLinkListener,
  ): Promise<SecureLink> {
    const secure = new SecureLink(ends, clock, listener);
    const [data, credit] = [migrationDataSubject(ends.migration), migrationCreditSubject(ends.migration)];
    const subjects: [string, string] = ends.role === "source" ? [data, credit] : [credit, data];
    secure.#link = await Link.open(connection, ...subjects, {
      message: (bytes) => secure.#hear(bytes),
      reconnected: () => {
        if (secure.established) listener.reconnected();
        else secure.#greet();
      },
      closed: (error) => listener.closed(error),
    });
    secure.#greet();
    return secure;
  }

  get established(): boolean {
    return this.#sealer !== undefined;
  }

  /** To be called now and then: a lost hello is mended by the next. Throws when only others have answered. */
  tick(): void {
    if (this.established) return;
    if (
      this.#impostorSinceMs !== undefined &&
      this.#clock.nowMs() - this.#impostorSinceMs >= IMPOSTOR_PATIENCE_MS
    )
      throw new GodwitError(
        "refused",
        `who answers as ${this.#ends.peerNode} has not the key that the cluster knows of it; look at the log of its agent`,
      );
    this.#greet();
  }

  /** @param room at least as much as the parts and SEAL_HEAD_BYTES + SEAL_TAG_BYTES */
  seal(kind: SealedKind, number: number, parts: readonly Uint8Array[], room: Uint8Array): Uint8Array {
    if (this.#sealer === undefined) throw new GodwitError("internal", "the image stream has no keys yet");
    return this.#sealer.seal(kind, number, parts, room);
  }

  /** Undefined when the message is not the peer's. */
  openChunk(message: SealedMessage, room: Uint8Array): Uint8Array | undefined {
    return this.#opener?.open(message, room);
  }

  publish(message: Uint8Array): void {
    this.sentBytes += message.byteLength;
    this.#link?.publish(message);
  }

  /** Nothing without a peer: it then has nothing to be told. */
  publishSmall(kind: SealedKind, content: Uint8Array): void {
    if (!this.established) return;
    const room = new Uint8Array(SEAL_HEAD_BYTES + content.byteLength + SEAL_TAG_BYTES);
    this.publish(this.seal(kind, this.#nextNumber++, [content], room));
  }

  #greet(): void {
    this.publish(this.#handshake.hello(this.established));
  }

  #hear(bytes: Uint8Array): void {
    this.receivedBytes += bytes.byteLength;
    if (bytes[0] === HELLO_KIND) {
      this.#hearHello(bytes);
      return;
    }
    const message = readSealed(bytes);
    if (message === undefined || this.#opener === undefined) return;
    const { kind, number } = message;
    if (kind === SealedKind.chunk) {
      this.#listener.chunk(message);
      return;
    }
    if (number <= (this.#heardNumber.get(kind) ?? -1) || bytes.byteLength > SMALL_BYTES) return;
    const content = this.#opener.open(message, new Uint8Array(bytes.byteLength));
    if (content === undefined) return;
    this.#heardNumber.set(kind, number);
    this.#listener.small(kind, content);
  }

  #hearHello(bytes: Uint8Array): void {
    const hello = this.#handshake.hear(bytes);
    if (hello === undefined) {
      this.#impostorSinceMs ??= this.#clock.nowMs();
      return;
    }
    const first = !this.established;
    if (first) {
      const source = this.#ends.role === "source";
      this.#sealer = new Sealer(source ? hello.keys.chunks : hello.keys.credits);
      this.#opener = new Opener(source ? hello.keys.credits : hello.keys.chunks);
    }
    if (!hello.confirmed) this.#greet();
    if (first) this.#listener.established();
  }

  [Symbol.dispose](): void {
    this.#link?.[Symbol.dispose]();
  }
}
