import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";

import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { Credit } from "../../proto/gen/godwit/v1/stream.ts";
import { systemClock, tickPeriodMs, type Clock } from "./clock.ts";
import { COMPRESSING_THREADS, type CompressingThreads } from "../native/zstd-threads.ts";
import { checksumBytes, ChunkCompressor, type EncodedChunk, loadChecksum } from "./compression.ts";
import {
  CHUNK_BYTES,
  FRAME_HEAD_BYTES,
  encodeAbort,
  encodeChunkHead,
  encodeFarewell,
  encodeProbe,
} from "./frames.ts";
import { GarbageMeter } from "./garbage.ts";
import type { StreamEnds } from "./handshake.ts";
import { LinkRate } from "./link-rate.ts";
import { SEAL_HEAD_BYTES, SEAL_TAG_BYTES, SealedKind } from "./sealing.ts";
import { SecureLink } from "./secure-link.ts";
import { SenderWindow } from "./sender-window.ts";
import { TokenBucket } from "./token-bucket.ts";

export const DEFAULT_WINDOW_BYTES = 8 * 1024 * 1024;
export const DEFAULT_IDLE_TIMEOUT_MS = 30_000;
/** Compressing keeps the event loop busy: let it serve sockets in between. */
const CHUNKS_PER_TURN = 8;
/** A capped stream takes so long a part of its rate at once. */
const BURST_MS = 50;
/** What a message is larger than the payload of its chunk. */
const OVERHEAD_BYTES = SEAL_HEAD_BYTES + FRAME_HEAD_BYTES + SEAL_TAG_BYTES;

export interface SenderOptions {
  readonly connection: NatsConnection;
  readonly ends: StreamEnds;
  readonly signal: AbortSignal;
  readonly windowBytes?: number;
  /** How long the receiver may be silent, also at the start. */
  readonly idleTimeoutMs?: number;
  /** What the stream may take of the link; 0 or absent: all of it. */
  readonly bytesPerSecond?: number;
  readonly clock?: Clock;
  /** That compress beside this one. */
  readonly threads?: CompressingThreads;
}

export interface ImageSender extends AsyncDisposable {
  /**
   * Takes the bytes in and waits while the window is full. They are copied or sent before it resolves: the
   * caller may reuse them then, and must not change them before. One call at a time.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Sends what is buffered although it fills no chunk. */
  flush(): Promise<void>;
  /**
   * Flushes, and resolves when the receiver has dealt with everything but the last chunk: nothing is in the way of what
   * is written next.
   */
  drain(): Promise<void>;
  /** Sends the digest; resolves when the receiver has taken everything in and the digest was right. */
  finish(): Promise<void>;
  /** From now on it counts when things arrive, and not how many bytes they are: the container stands still. */
  hurry(): void;
  /** Gives up; the receiver fails with the reason. No effect after the end. */
  abort(reason: string): void;
  /** On the wire, with what was sent again. */
  readonly sentBytes: number;
  readonly rawBytes: number;
  /** The receiver has said that it holds pages already; known for sure after `drain`. */
  readonly offersPages: boolean;
}

/** A chunk on its way into the window. */
interface ComingChunk {
  readonly checksum: bigint;
  readonly rawLength: number;
  readonly digest: Uint8Array | undefined;
  readonly last: boolean;
  /** Undefined while a thread is at work on it. */
  encoded: EncodedChunk | undefined;
}

interface HeldFrame {
  readonly buffer: Uint8Array;
  readonly message: Uint8Array;
  /** Transmitted more than once, so NATS may still hold a reference when it is acknowledged. */
  shared: boolean;
}

/**
 * Opens the source's end: resolves when the receiver is there and has proved who it is. Fails, as later calls do, with
 * GodwitError: `unavailable` if the receiver stays silent or NATS goes away for good, `refused` if only others answer
 * in its name, `cancelled` if the signal fires or the receiver gives up.
 */
export async function openSender(options: SenderOptions): Promise<ImageSender> {
  options.signal.throwIfAborted();
  const sender = new NatsImageSender(options, await loadChecksum());
  await sender.open(options.connection, options.ends);
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
  /** In the order in which they are sent. */
  readonly #coming: ComingChunk[] = [];
  readonly #mostComing: number;
  readonly #pending = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  readonly #onAbort = (): void => {
    this.#giveUp(GodwitError.from(this.#signal.reason, "cancelled"), "the source was told to stop");
  };
  readonly #rate: LinkRate;
  #urgent = false;
  readonly #bucket: TokenBucket | undefined;
  #later: Disposable | undefined;
  #chunkBytes = CHUNK_BYTES;
  #pendingBytes = 0;
  #link: SecureLink | undefined;
  #ticker: Disposable | undefined;
  #failure: GodwitError | undefined;
  #settled = false;
  #draining = false;
  #heardAtMs: number;
  #heardSinceTick = false;
  #sentSinceTick = false;
  /** Chunks were sent since the receiver was asked last. */
  #hasNews = false;
  #chunksThisTurn = 0;
  #progress = Promise.withResolvers<void>();
  rawBytes = 0;
  offersPages = false;

  constructor(options: SenderOptions, checksum: (bytes: Uint8Array) => bigint) {
    this.#checksum = checksum;
    const capacity = Math.max(2, Math.floor((options.windowBytes ?? DEFAULT_WINDOW_BYTES) / CHUNK_BYTES));
    this.#window = new SenderWindow(capacity);
    const rate = options.bytesPerSecond ?? 0;
    this.#rate = new LinkRate(capacity, rate);
    if (rate > 0) this.#bucket = new TokenBucket(rate, Math.max(1, (rate * BURST_MS) / 1000));
    this.#clock = options.clock ?? systemClock;
    const threads = options.threads ?? COMPRESSING_THREADS;
    this.#compressor = new ChunkCompressor(() => this.#clock.nowMs(), threads);
    this.#mostComing = 1 + threads.count;
    this.#idleTimeoutMs = options.idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS;
    this.#signal = options.signal;
    this.#heardAtMs = this.#clock.nowMs();
  }

  get sentBytes(): number {
    return this.#link?.sentBytes ?? 0;
  }

  async open(connection: NatsConnection, ends: StreamEnds): Promise<void> {
    this.#link = await SecureLink.open(connection, ends, this.#clock, {
      established: () => {
        this.#heardAtMs = this.#clock.nowMs();
        this.#probe();
        this.#wake();
      },
      chunk: () => undefined, // the receiver sends none
      small: (kind, content) => {
        if (kind === SealedKind.credit) this.#hear(content);
      },
      reconnected: () => this.#probe(),
      closed: (error) => this.#giveUp(error),
    });
    // The server refuses larger messages; its default of 1 MiB leaves room.
    const maxPayloadBytes = connection.info?.max_payload ?? CHUNK_BYTES * 2;
    this.#chunkBytes = Math.min(CHUNK_BYTES, maxPayloadBytes - OVERHEAD_BYTES);
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
    while (!this.#link.established) {
      this.#throwIfFailed();
      await this.#progress.promise;
    }
    this.#throwIfFailed();
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let offset = 0; offset < bytes.byteLength;) {
      const wanted = this.#chunkBytes - this.#pendingBytes;
      const part = bytes.subarray(offset, offset + wanted);
      offset += part.byteLength;
      if (part.byteLength === this.#chunkBytes) {
        await this.#prepare(part, false);
        continue;
      }
      this.#pending.set(part, this.#pendingBytes);
      this.#pendingBytes += part.byteLength;
      if (this.#pendingBytes === this.#chunkBytes) await this.#preparePending(false);
    }
    this.#throwIfFailed();
  }

  async flush(): Promise<void> {
    if (this.#pendingBytes > 0) await this.#preparePending(false);
    await this.#until(() => this.#coming.length === 0);
  }

  async drain(): Promise<void> {
    await this.flush();
    this.#draining = true;
    try {
      if (this.#window.isTransmitted) this.#probe();
      while (!this.#window.isDrained) {
        await this.#progress.promise;
        this.#throwIfFailed();
      }
    } finally {
      this.#draining = false;
    }
  }

  async finish(): Promise<void> {
    await this.#preparePending(true);
    await this.#until(() => this.#window.complete);
    this.#link?.publishSmall(SealedKind.control, encodeFarewell());
    this.#settle();
  }

  hurry(): void {
    this.#urgent = true;
  }

  abort(reason: string): void {
    this.#giveUp(new GodwitError("cancelled", `the image stream was given up: ${reason}`), reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abort("the source closed the stream before its end");
  }

  async #until(isSo: () => boolean): Promise<void> {
    this.#throwIfFailed();
    while (!isSo()) {
      await this.#progress.promise;
      this.#throwIfFailed();
    }
  }

  async #preparePending(last: boolean): Promise<void> {
    await this.#prepare(this.#pending.subarray(0, this.#pendingBytes), last);
    this.#pendingBytes = 0;
  }

  /** Resolves when `raw` may be used again. */
  async #prepare(raw: Uint8Array, last: boolean): Promise<void> {
    await this.#until(
      () => this.#coming.length < this.#mostComing && this.#window.room > this.#coming.length,
    );
    if (++this.#chunksThisTurn >= CHUNKS_PER_TURN) {
      this.#chunksThisTurn = 0;
      await setImmediate();
      this.#throwIfFailed();
    }
    const checksum = this.#checksum(raw);
    this.#digest.update(checksumBytes(checksum));
    const digest = last ? this.#digest.digest() : undefined;
    const coming: ComingChunk = { checksum, rawLength: raw.byteLength, digest, last, encoded: undefined };
    this.#coming.push(coming);
    const surroundings = {
      linkMsPerByte: this.#rate.msPerByte,
      backlogBytes: this.#rate.backlogBytes,
      urgent: this.#urgent,
    };
    const encoded = this.#compressor.encode(raw, surroundings, this.#coming.length > 1);
    if (encoded instanceof Promise)
      encoded.then(
        (made) => {
          coming.encoded = made;
          this.#advance();
          this.#wake();
        },
        (error: unknown) => this.#giveUp(GodwitError.from(error), "the source could not compress"),
      );
    else {
      coming.encoded = encoded;
      this.#advance();
    }
  }

  /** Those that are ready and have none in front of them are sent. */
  #advance(): void {
    for (let first = this.#coming[0]; first?.encoded !== undefined; first = this.#coming[0]) {
      if (this.#settled) return;
      this.#coming.shift();
      this.#seal(first, first.encoded);
    }
  }

  #seal({ checksum, digest, last, rawLength }: ComingChunk, encoded: EncodedChunk): void {
    const { encoding, payload, zeroMap } = encoded;
    const buffer = this.#pool.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES + OVERHEAD_BYTES);
    const head = encodeChunkHead(
      { checksum, encoding, rawLength, digest, last, zeroMap },
      payload.byteLength,
    );
    // Sealed once: what is sent again is these same bytes.
    const message = this.#sealed(head, payload, buffer);
    this.#compressor.release(encoded);
    this.#window.add({ buffer, message, shared: false }, last);
    this.#rate.entered(message.byteLength, this.#clock.nowMs());
    this.rawBytes += rawLength;
    this.#transmit();
  }

  #sealed(head: Uint8Array, payload: Uint8Array, room: Uint8Array): Uint8Array {
    if (this.#link === undefined) throw new GodwitError("internal", "the image stream is not open");
    return this.#link.seal(SealedKind.chunk, this.#window.next, [head, payload], room);
  }

  #transmit(): void {
    if (this.#later !== undefined) return;
    for (;;) {
      const waitMs = this.#bucket?.waitMs(this.#clock.nowMs()) ?? 0;
      if (waitMs > 0) {
        this.#later = this.#clock.after(waitMs, () => {
          this.#later = undefined;
          this.#transmit();
        });
        return;
      }
      const taken = this.#window.take();
      if (taken === undefined) {
        // Unasked, the receiver speaks only now and then. One question for each time that all is sent: were every
        // credit answered with one, each that a loss brings about would begin an exchange without an end.
        if (this.#hasNews && this.#isWaitingForWord) this.#probe();
        return;
      }
      taken.chunk.shared ||= taken.again;
      this.#bucket?.spend(taken.chunk.message.byteLength, this.#clock.nowMs());
      this.#publish(taken.chunk.message);
    }
  }

  get #isWaitingForWord(): boolean {
    const { isDrained, isHeldBack, isTransmitted } = this.#window;
    return isHeldBack || (this.#draining && isTransmitted && !isDrained);
  }

  #probe(): void {
    if (this.#settled) return;
    this.#sentSinceTick = true;
    this.#hasNews = false;
    this.#link?.publishSmall(SealedKind.control, encodeProbe(this.#window.cursor));
  }

  #publish(message: Uint8Array): void {
    if (this.#settled) return;
    this.#sentSinceTick = true;
    this.#hasNews = true;
    this.#garbage.moved(message.byteLength);
    this.#link?.publish(message);
  }

  #hear(content: Uint8Array): void {
    let credit: Credit;
    try {
      credit = Credit.decode(content);
    } catch (cause) {
      this.#giveUp(new GodwitError("corrupt", "the target speaks another version of the stream", { cause }));
      return;
    }
    this.#heardAtMs = this.#clock.nowMs();
    this.#heardSinceTick = true;
    if (credit.error !== "") {
      this.#giveUp(new GodwitError("cancelled", `the target gave up: ${credit.error}`));
      return;
    }
    if (credit.offersPages) this.offersPages = true;
    const released = this.#window.credit(credit);
    const bytes = released.reduce((sum, { message }) => sum + message.byteLength, 0);
    this.#rate.acknowledged(released.length, bytes, this.#heardAtMs);
    for (const frame of released) if (!frame.shared) this.#pool.push(frame.buffer);
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
    try {
      this.#link?.tick();
    } catch (error) {
      this.#giveUp(GodwitError.from(error));
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
    if (reason !== undefined) this.#link?.publishSmall(SealedKind.control, encodeAbort(reason));
    this.#settle();
  }

  #settle(): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#ticker?.[Symbol.dispose]();
    this.#later?.[Symbol.dispose]();
    this.#signal.removeEventListener("abort", this.#onAbort);
    this.#link?.[Symbol.dispose]();
    this.#pool.length = 0;
    this.#wake();
  }
}
