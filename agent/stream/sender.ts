import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";

import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { migrationCreditSubject, migrationDataSubject } from "../../proto/contract/subjects.ts";
import { Credit } from "../../proto/gen/godwit/v1/stream.ts";
import { systemClock, tickPeriodMs, type Clock } from "./clock.ts";
import { ChunkCompressor, FRAME_BYTES, loadChecksum } from "./compression.ts";
import { CHUNK_BYTES, FRAME_HEAD_BYTES, encodeAbort, encodeChunk, encodeProbe } from "./frames.ts";
import { GarbageMeter } from "./garbage.ts";
import { Link } from "./link.ts";
import { SenderWindow } from "./sender-window.ts";

export const DEFAULT_WINDOW_BYTES = 8 * 1024 * 1024;
export const DEFAULT_IDLE_TIMEOUT_MS = 30_000;
const DEFAULT_LEVEL = 1;
/** Compressing keeps the event loop busy: let it serve sockets in between. */
const CHUNKS_PER_TURN = 8;

export interface SenderOptions {
  readonly connection: NatsConnection;
  readonly migration: string;
  readonly signal: AbortSignal;
  readonly windowBytes?: number;
  /** zstd's level. */
  readonly level?: number;
  /** How long the receiver may be silent, also at the start. */
  readonly idleTimeoutMs?: number;
  readonly clock?: Clock;
}

export interface ImageSender extends AsyncDisposable {
  /**
   * Takes the bytes in and waits while the window is full. They are copied or sent before it resolves: the
   * caller may reuse them then, and must not change them before. One call at a time.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Sends what is buffered although it fills no chunk. */
  flush(): Promise<void>;
  /** Sends the digest; resolves when the receiver has taken everything in and the digest was right. */
  finish(): Promise<void>;
  /** Gives up; the receiver fails with the reason. No effect after the end. */
  abort(reason: string): void;
  /** On the wire, with what was sent again. */
  readonly sentBytes: number;
  readonly rawBytes: number;
}

interface HeldFrame {
  readonly buffer: Uint8Array;
  readonly message: Uint8Array;
  /** Transmitted more than once, so NATS may still hold a reference when it is acknowledged. */
  shared: boolean;
}

/**
 * Opens the source's end. The receiver need not be there yet: chunks wait in the window until its first
 * credit. Fails later calls with GodwitError: `unavailable` if the receiver stays silent or NATS goes away
 * for good, `cancelled` if the signal fires or the receiver gives up.
 */
export async function openSender(options: SenderOptions): Promise<ImageSender> {
  options.signal.throwIfAborted();
  const sender = new NatsImageSender(options, await loadChecksum());
  await sender.open(options.connection, options.migration);
  return sender;
}

class NatsImageSender implements ImageSender {
  readonly #checksum: (bytes: Uint8Array) => bigint;
  readonly #window: SenderWindow<HeldFrame>;
  readonly #compressor: ChunkCompressor;
  readonly #digest = createHash("sha256");
  readonly #clock: Clock;
  readonly #idleTimeoutMs: number;
  readonly #signal: AbortSignal;
  readonly #garbage = new GarbageMeter();
  readonly #pool: Uint8Array[] = [];
  readonly #pending = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  readonly #onAbort = (): void => {
    this.#giveUp(GodwitError.from(this.#signal.reason, "cancelled"), "the source was told to stop");
  };
  #chunkBytes = CHUNK_BYTES;
  #pendingBytes = 0;
  #link: Link | undefined;
  #ticker: Disposable | undefined;
  #failure: GodwitError | undefined;
  #settled = false;
  #heardAtMs: number;
  #heardSinceTick = false;
  #sentSinceTick = false;
  #chunksThisTurn = 0;
  #progress = Promise.withResolvers<void>();
  sentBytes = 0;
  rawBytes = 0;

  constructor(options: SenderOptions, checksum: (bytes: Uint8Array) => bigint) {
    this.#checksum = checksum;
    this.#window = new SenderWindow(
      Math.max(2, Math.floor((options.windowBytes ?? DEFAULT_WINDOW_BYTES) / CHUNK_BYTES)),
    );
    this.#compressor = new ChunkCompressor(options.level ?? DEFAULT_LEVEL);
    this.#clock = options.clock ?? systemClock;
    this.#idleTimeoutMs = options.idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS;
    this.#signal = options.signal;
    this.#heardAtMs = this.#clock.nowMs();
  }

  async open(connection: NatsConnection, migration: string): Promise<void> {
    this.#link = await Link.open(
      connection,
      migrationDataSubject(migration),
      migrationCreditSubject(migration),
      {
        message: (bytes) => this.#hear(bytes),
        reconnected: () => this.#probe(),
        closed: (error) => this.#giveUp(error),
      },
    );
    // The server refuses larger messages; its default of 1 MiB leaves room.
    const maxPayloadBytes = connection.info?.max_payload ?? CHUNK_BYTES * 2;
    this.#chunkBytes = Math.min(CHUNK_BYTES, maxPayloadBytes - 2 * FRAME_HEAD_BYTES);
    if (this.#chunkBytes < 1024) {
      this.#link[Symbol.dispose]();
      throw new GodwitError(
        "refused",
        `NATS takes messages of ${maxPayloadBytes} bytes only; raise max_payload`,
      );
    }
    this.#ticker = this.#clock.every(tickPeriodMs(this.#idleTimeoutMs), () => this.#tick());
    this.#signal.addEventListener("abort", this.#onAbort, { once: true });
    if (this.#signal.aborted) this.#onAbort();
    else this.#probe();
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let offset = 0; offset < bytes.byteLength;) {
      const wanted = this.#chunkBytes - this.#pendingBytes;
      const part = bytes.subarray(offset, offset + wanted);
      offset += part.byteLength;
      if (part.byteLength === this.#chunkBytes) {
        await this.#seal(part, false);
        continue;
      }
      this.#pending.set(part, this.#pendingBytes);
      this.#pendingBytes += part.byteLength;
      if (this.#pendingBytes === this.#chunkBytes) await this.flush();
    }
    this.#throwIfFailed();
  }

  async flush(): Promise<void> {
    if (this.#pendingBytes > 0) {
      await this.#seal(this.#pending.subarray(0, this.#pendingBytes), false);
      this.#pendingBytes = 0;
    }
    this.#throwIfFailed();
  }

  async finish(): Promise<void> {
    await this.#seal(this.#pending.subarray(0, this.#pendingBytes), true);
    this.#pendingBytes = 0;
    while (!this.#window.complete) {
      this.#throwIfFailed();
      await this.#progress.promise;
    }
    this.#settle();
  }

  abort(reason: string): void {
    this.#giveUp(new GodwitError("cancelled", `the image stream was given up: ${reason}`), reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abort("the source closed the stream before its end");
  }

  async #seal(raw: Uint8Array, last: boolean): Promise<void> {
    this.#throwIfFailed();
    while (!this.#window.hasRoom) {
      await this.#progress.promise;
      this.#throwIfFailed();
    }
    if (++this.#chunksThisTurn >= CHUNKS_PER_TURN) {
      this.#chunksThisTurn = 0;
      await setImmediate();
      this.#throwIfFailed();
    }
    const buffer = this.#pool.pop() ?? Buffer.allocUnsafeSlow(FRAME_BYTES);
    this.#digest.update(raw);
    const { encoding, payloadLength } = this.#compressor.encode(raw, buffer);
    const head = {
      sequence: this.#window.next,
      checksum: this.#checksum(buffer.subarray(FRAME_HEAD_BYTES, FRAME_HEAD_BYTES + payloadLength)),
      encoding,
      rawLength: raw.byteLength,
      digest: last ? this.#digest.digest() : undefined,
      last,
    };
    this.#window.add({ buffer, message: encodeChunk(head, buffer, payloadLength), shared: false }, last);
    this.rawBytes += raw.byteLength;
    this.#transmit();
  }

  #transmit(): void {
    for (let taken = this.#window.take(); taken !== undefined; taken = this.#window.take()) {
      taken.chunk.shared ||= taken.again;
      this.#publish(taken.chunk.message);
    }
  }

  #probe(): void {
    this.#publish(encodeProbe(this.#window.cursor));
  }

  #publish(message: Uint8Array): void {
    if (this.#settled) return;
    this.#sentSinceTick = true;
    this.sentBytes += message.byteLength;
    this.#garbage.moved(message.byteLength);
    this.#link?.publish(message);
  }

  #hear(bytes: Uint8Array): void {
    let credit: Credit;
    try {
      credit = Credit.decode(bytes);
    } catch {
      return; // A damaged credit is a lost one: the next tick asks for another.
    }
    this.#heardAtMs = this.#clock.nowMs();
    this.#heardSinceTick = true;
    if (credit.error !== "") {
      this.#giveUp(new GodwitError("cancelled", `the target gave up: ${credit.error}`));
      return;
    }
    for (const frame of this.#window.credit(credit)) if (!frame.shared) this.#pool.push(frame.buffer);
    this.#transmit();
    this.#wake();
  }

  #tick(): void {
    if (this.#clock.nowMs() - this.#heardAtMs >= this.#idleTimeoutMs) {
      const seconds = this.#idleTimeoutMs / 1000;
      this.#giveUp(
        new GodwitError("unavailable", `the target has not answered for ${seconds} s`),
        "no answer",
      );
      return;
    }
    if (!this.#heardSinceTick || !this.#sentSinceTick) this.#probe();
    this.#heardSinceTick = false;
    this.#sentSinceTick = false;
  }

  #wake(): void {
    this.#progress.resolve();
    this.#progress = Promise.withResolvers();
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#settled) throw new GodwitError("internal", "the image stream has ended");
  }

  /** `reason` is told to the receiver. */
  #giveUp(error: GodwitError, reason?: string): void {
    if (this.#settled) return;
    this.#failure = error;
    if (reason !== undefined) this.#publish(encodeAbort(reason));
    this.#settle();
  }

  #settle(): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#ticker?.[Symbol.dispose]();
    this.#signal.removeEventListener("abort", this.#onAbort);
    this.#link?.[Symbol.dispose]();
    this.#pool.length = 0;
    this.#wake();
  }
}
