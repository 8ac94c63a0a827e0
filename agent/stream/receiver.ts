import { createHash } from "node:crypto";

import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { migrationCreditSubject, migrationDataSubject } from "../../proto/contract/subjects.ts";
import { Credit } from "../../proto/gen/godwit/v1/stream.ts";
import { systemClock, tickPeriodMs, type Clock } from "./clock.ts";
import { ChunkDecompressor, loadChecksum } from "./compression.ts";
import { CHUNK_BYTES, decodeChunk, type DataChunk, type Frame } from "./frames.ts";
import { GarbageMeter } from "./garbage.ts";
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

/** A chunk whose checksum was right, with its payload in a slot of the pool. */
interface StoredChunk {
  readonly chunk: DataChunk;
  readonly slot: Uint8Array;
}

class NatsImageReceiver implements ImageReceiver {
  readonly #checksum: (bytes: Uint8Array) => bigint;
  readonly #window: ReceiverWindow;
  readonly #decompressor = new ChunkDecompressor();
  readonly #digest = createHash("sha256");
  readonly #clock: Clock;
  readonly #idleTimeoutMs: number;
  readonly #signal: AbortSignal;
  readonly #garbage = new GarbageMeter();
  readonly #queue: StoredChunk[] = [];
  /** Slots are reused: buffers that wait in a queue outlive the young generation and would pile up. */
  readonly #pool: Uint8Array[] = [];
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
      if (this.#failure !== undefined) throw this.#failure;
      const stored = this.#queue.shift();
      if (stored !== undefined) {
        const raw = this.#decode(stored);
        if (raw.byteLength > 0) yield raw;
        continue;
      }
      if (this.#window.complete) return;
      if (this.#closed) throw new GodwitError("internal", "the image stream is closed");
      await this.#arrival.promise;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#window.complete) {
      this.#giveUp(
        new GodwitError("cancelled", "the image stream was closed"),
        "the target closed the stream",
      );
    }
  }

  #hear(bytes: Uint8Array): void {
    this.receivedBytes += bytes.byteLength;
    this.#garbage.moved(bytes.byteLength);
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
        if (!this.#window.complete)
          this.#giveUp(new GodwitError("cancelled", `the source gave up: ${frame.reason}`));
        return;
      case "data": {
        const verdict = this.#window.offer(frame.data.sequence);
        if (verdict === "next") this.#store(frame.data);
        else if (verdict === "ask") this.#publishCredit();
      }
    }
  }

  #store(chunk: DataChunk): void {
    if (this.#checksum(chunk.payload) !== chunk.checksum) {
      this.#window.reject();
      this.#publishCredit();
      return;
    }
    const pooled = this.#pool.pop();
    const fits = pooled !== undefined && pooled.byteLength >= chunk.payload.byteLength;
    const slot = fits ? pooled : Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, chunk.payload.byteLength));
    slot.set(chunk.payload);
    const payload = slot.subarray(0, chunk.payload.byteLength);
    this.#queue.push({
      slot,
      chunk: { ...chunk, payload, digest: chunk.digest && Uint8Array.from(chunk.digest) },
    });
    this.#window.accept(chunk.last);
    if (this.#window.creditDue) this.#publishCredit();
    this.#wake();
  }

  #decode({ chunk, slot }: StoredChunk): Uint8Array {
    let raw: Uint8Array;
    try {
      raw = this.#decompressor.decode(chunk);
      this.#digest.update(raw);
      if (chunk.digest !== undefined && !this.#digest.digest().equals(chunk.digest)) {
        throw new GodwitError("corrupt", "the image stream arrived with a wrong digest; try the move again");
      }
    } catch (error) {
      // The checksum was right, so the sender itself is wrong and sending again would not help.
      const failure = GodwitError.from(error, "corrupt");
      this.#giveUp(failure, failure.message);
      throw failure;
    }
    this.#pool.push(slot);
    this.#window.consume();
    if (this.#window.creditDue) this.#publishCredit();
    return raw;
  }

  #publishCredit(): void {
    const figures = this.#window.credit();
    this.#link?.publish(Credit.encode(Credit.fromPartial(figures)).finish());
  }

  #tick(): void {
    if (this.#clock.nowMs() - this.#heardAtMs < this.#idleTimeoutMs) return;
    if (this.#window.complete) {
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
    if (!this.#window.complete) {
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
    this.#queue.length = 0;
    this.#pool.length = 0;
    this.#wake();
  }
}
