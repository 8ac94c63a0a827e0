import { createHash } from "node:crypto";

import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { migrationCreditSubject, migrationDataSubject } from "../../proto/contract/subjects.ts";
import { Credit } from "../../proto/gen/godwit/v1/stream.ts";
import { systemClock, tickPeriodMs, type Clock } from "./clock.ts";
import { ChunkDecompressor, loadChecksum } from "./compression.ts";
import { CHUNK_BYTES, decodeChunk, type DataChunk, type Frame } from "./frames.ts";
import { Link } from "./link.ts";
import { ReceiverWindow } from "./receiver-window.ts";
import { DEFAULT_IDLE_TIMEOUT_MS, DEFAULT_WINDOW_BYTES } from "./sender.ts";

export interface ReceiverOptions {
  readonly connection: NatsConnection;
  readonly migration: string;
  readonly signal: AbortSignal;
  readonly windowBytes?: number;
  /** How long the sender may be silent, also at the start. */
  readonly idleTimeoutMs?: number;
  readonly clock?: Clock;
}

export interface ImageReceiver extends AsyncDisposable {
  /**
   * Decoded, in order; each piece is the caller's own. Ends after the last chunk if the digest over all was
   * right. Credit is given as pieces are taken, so a slow caller slows the sender. To be called once.
   */
  chunks(): AsyncIterable<Uint8Array>;
  /** On the wire, with what came twice. */
  readonly receivedBytes: number;
}

/**
 * Opens the target's end: subscribed when it resolves. `chunks` throws GodwitError: `unavailable` if the
 * sender stays silent or NATS goes away for good, `cancelled` if the signal fires or the sender gives up,
 * `corrupt` if the digest is wrong. Disposing before the end tells the sender to give up; after the end it
 * goes on answering, for as long as the idle timeout, a sender that has missed the word of completion.
 */
export async function openReceiver(options: ReceiverOptions): Promise<ImageReceiver> {
  options.signal.throwIfAborted();
  const receiver = new NatsImageReceiver(options, await loadChecksum());
  await receiver.open(options.connection, options.migration);
  return receiver;
}

class NatsImageReceiver implements ImageReceiver {
  readonly #checksum: (bytes: Uint8Array) => bigint;
  readonly #window: ReceiverWindow;
  readonly #decompressor = new ChunkDecompressor();
  readonly #digest = createHash("sha256");
  readonly #clock: Clock;
  readonly #idleTimeoutMs: number;
  readonly #signal: AbortSignal;
  readonly #queue: Uint8Array[] = [];
  readonly #onAbort = (): void => {
    this.#giveUp(GodwitError.from(this.#signal.reason, "cancelled"), "the target was told to stop");
  };
  #link: Link | undefined;
  #ticker: Disposable | undefined;
  #failure: GodwitError | undefined;
  #closed = false;
  #heardAtMs: number;
  #arrival = Promise.withResolvers<void>();
  receivedBytes = 0;

  constructor(options: ReceiverOptions, checksum: (bytes: Uint8Array) => bigint) {
    this.#checksum = checksum;
    this.#window = new ReceiverWindow(
      Math.max(2, Math.floor((options.windowBytes ?? DEFAULT_WINDOW_BYTES) / CHUNK_BYTES)),
    );
    this.#clock = options.clock ?? systemClock;
    this.#idleTimeoutMs = options.idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS;
    this.#signal = options.signal;
    this.#heardAtMs = this.#clock.nowMs();
  }

  async open(connection: NatsConnection, migration: string): Promise<void> {
    this.#link = await Link.open(
      connection,
      migrationCreditSubject(migration),
      migrationDataSubject(migration),
      {
        message: (bytes) => this.#hear(bytes),
        reconnected: () => this.#publishCredit(),
        closed: (error) => this.#giveUp(error),
      },
    );
    this.#ticker = this.#clock.every(tickPeriodMs(this.#idleTimeoutMs), () => this.#tick());
    this.#signal.addEventListener("abort", this.#onAbort, { once: true });
    if (this.#signal.aborted) this.#onAbort();
    else this.#publishCredit();
  }

  async *chunks(): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const chunk = this.#queue.shift();
      if (chunk !== undefined) {
        this.#window.consume();
        if (this.#window.creditDue) this.#publishCredit();
        if (chunk.byteLength > 0) yield chunk;
        continue;
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#window.ended) return;
      if (this.#closed) throw new GodwitError("internal", "the image stream is closed");
      await this.#arrival.promise;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#window.ended) {
      this.#giveUp(
        new GodwitError("cancelled", "the image stream was closed"),
        "the target closed the stream",
      );
    }
    this.#queue.length = 0;
  }

  #hear(bytes: Uint8Array): void {
    this.receivedBytes += bytes.byteLength;
    let frame: Frame;
    try {
      frame = decodeChunk(bytes);
    } catch {
      // Whatever it was, it is as good as lost. Were it a chunk, the gap or the next probe brings it back.
      return;
    }
    this.#heardAtMs = this.#clock.nowMs();
    switch (frame.kind) {
      case "probe":
        this.#window.probe(frame.sequence);
        this.#publishCredit();
        return;
      case "abort":
        if (!this.#window.ended)
          this.#giveUp(new GodwitError("cancelled", `the source gave up: ${frame.reason}`));
        return;
      case "data": {
        const verdict = this.#window.offer(frame.data.sequence);
        if (verdict === "next") this.#take(frame.data);
        else if (verdict === "ask") this.#publishCredit();
      }
    }
  }

  #take(chunk: DataChunk): void {
    let raw: Uint8Array;
    try {
      if (this.#checksum(chunk.payload) !== chunk.checksum) throw new GodwitError("corrupt", "checksum");
      raw = this.#decompressor.decode(chunk);
    } catch {
      this.#window.reject();
      this.#publishCredit();
      return;
    }
    this.#digest.update(raw);
    if (chunk.digest !== undefined && !this.#digest.digest().equals(chunk.digest)) {
      const error = new GodwitError(
        "corrupt",
        "the image stream arrived with a wrong digest; try the move again",
      );
      this.#giveUp(error, error.message);
      return;
    }
    this.#window.accept(chunk.last, chunk.last);
    this.#queue.push(raw);
    if (this.#window.creditDue) this.#publishCredit();
    this.#wake();
  }

  #publishCredit(): void {
    const figures = this.#window.credit();
    this.#link?.publish(Credit.encode(Credit.fromPartial(figures)).finish());
  }

  #tick(): void {
    if (this.#clock.nowMs() - this.#heardAtMs < this.#idleTimeoutMs) return;
    if (this.#window.ended) {
      this.#close();
      return;
    }
    const seconds = this.#idleTimeoutMs / 1000;
    this.#giveUp(
      new GodwitError("unavailable", `the source has sent nothing for ${seconds} s`),
      "nothing came",
    );
  }

  #wake(): void {
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers();
  }

  /** `reason` is told to the sender. */
  #giveUp(error: GodwitError, reason?: string): void {
    if (this.#closed) return;
    if (!this.#window.ended) {
      this.#failure = error;
      if (reason !== undefined) {
        this.#link?.publish(Credit.encode(Credit.fromPartial({ error: reason })).finish());
      }
    }
    this.#close();
  }

  #close(): void {
    this.#closed = true;
    this.#ticker?.[Symbol.dispose]();
    this.#signal.removeEventListener("abort", this.#onAbort);
    this.#link?.[Symbol.dispose]();
    this.#wake();
  }
}
