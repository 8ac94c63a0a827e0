import { createHash } from "node:crypto";

import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { Credit } from "../../proto/gen/godwit/v1/stream.ts";
import { systemClock, tickPeriodMs, type Clock } from "./clock.ts";
import { checksumBytes, ChunkDecompressor, loadChecksum } from "./compression.ts";
import { CHUNK_BYTES, decodeChunk, FRAME_HEAD_BYTES, type DataChunk, type Frame } from "./frames.ts";
import { GarbageMeter } from "./garbage.ts";
import type { StreamEnds } from "./handshake.ts";
import { ReceiverWindow } from "./receiver-window.ts";
import { SealedKind, type SealedMessage } from "./sealing.ts";
import { SecureLink } from "./secure-link.ts";
import { DEFAULT_IDLE_TIMEOUT_MS, DEFAULT_WINDOW_BYTES } from "./sender.ts";

export interface ReceiverOptions {
  readonly connection: NatsConnection;
  readonly ends: StreamEnds;
  readonly signal: AbortSignal;
  readonly windowBytes?: number;
  /** How long the sender may be silent, also at the start. */
  readonly idleTimeoutMs?: number;
  readonly clock?: Clock;
  /** Whether the sender is told that pages are here already. */
  readonly offersPages?: boolean;
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
 * sender stays silent or NATS goes away for good, `refused` if only others speak in its name, `cancelled` if the
 * signal fires or the sender gives up, `corrupt` if the digest is wrong. Disposing before the end tells the sender to give
 * up; after the end it goes on answering a sender that has missed the word of completion, until that says farewell or has
 * been silent for the idle timeout.
 */
export async function openReceiver(options: ReceiverOptions): Promise<ImageReceiver> {
  options.signal.throwIfAborted();
  const receiver = new NatsImageReceiver(options, await loadChecksum());
  await receiver.open(options.connection, options.ends);
  return receiver;
}

/** What a sender of this version takes for one opened chunk. */
const SLOT_BYTES = FRAME_HEAD_BYTES + CHUNK_BYTES;

/** A chunk that is the sender's, with its payload in a slot of the pool. */
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
  readonly #offersPages: boolean;
  readonly #garbage = new GarbageMeter();
  readonly #queue: StoredChunk[] = [];
  /** Slots are reused: buffers that wait in a queue outlive the young generation and would pile up. */
  readonly #pool: Uint8Array[] = [];
  readonly #onAbort = (): void => {
    this.#giveUp(GodwitError.from(this.#signal.reason, "cancelled"), "the target was told to stop");
  };
  #link: SecureLink | undefined;
  #ticker: Disposable | undefined;
  #failure: GodwitError | undefined;
  #closed = false;
  #heardAtMs: number;
  #arrival = Promise.withResolvers<void>();

  constructor(options: ReceiverOptions, checksum: (bytes: Uint8Array) => bigint) {
    this.#checksum = checksum;
    this.#window = new ReceiverWindow(
      Math.max(2, Math.floor((options.windowBytes ?? DEFAULT_WINDOW_BYTES) / CHUNK_BYTES)),
    );
    this.#clock = options.clock ?? systemClock;
    this.#idleTimeoutMs = options.idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS;
    this.#signal = options.signal;
    this.#offersPages = options.offersPages ?? false;
    this.#heardAtMs = this.#clock.nowMs();
  }

  get receivedBytes(): number {
    return this.#link?.receivedBytes ?? 0;
  }

  async open(connection: NatsConnection, ends: StreamEnds): Promise<void> {
    this.#link = await SecureLink.open(connection, ends, this.#clock, {
      established: () => {
        this.#heardAtMs = this.#clock.nowMs();
        this.#publishCredit();
      },
      chunk: (message) => this.#hearChunk(message),
      small: (kind, content) => {
        if (kind === SealedKind.control) this.#hearControl(content);
      },
      reconnected: () => this.#publishCredit(),
      closed: (error) => this.#giveUp(error),
    });
    this.#ticker = this.#clock.every(tickPeriodMs(this.#idleTimeoutMs), () => this.#tick());
    this.#signal.addEventListener("abort", this.#onAbort, { once: true });
    if (this.#signal.aborted) this.#onAbort();
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

  #hearControl(content: Uint8Array): void {
    const frame = this.#read(content);
    if (frame === undefined) return;
    this.#heardAtMs = this.#clock.nowMs();
    if (frame.kind === "probe") {
      this.#window.probe(frame.sequence);
      this.#publishCredit();
    } else if (this.#window.complete) {
      if (frame.kind === "farewell") this.#close();
    } else if (frame.kind === "abort") this.#giveUp(sourcesWord(frame.reason));
  }

  #hearChunk(message: SealedMessage): void {
    this.#garbage.moved(message.bytes.byteLength);
    if (this.#window.isOld(message.number)) return;
    const pooled = this.#pool.pop();
    const fits = pooled !== undefined && pooled.byteLength >= message.bytes.byteLength;
    const slot = fits ? pooled : Buffer.allocUnsafeSlow(Math.max(SLOT_BYTES, message.bytes.byteLength));
    if (!this.#takeChunk(message, slot)) this.#pool.push(slot);
  }

  /** Answers whether the slot is in use. */
  #takeChunk(message: SealedMessage, slot: Uint8Array): boolean {
    // One that is not the sender's is as good as lost. Were it a damaged one, the next chunk or probe shows the gap.
    const content = this.#link?.openChunk(message, slot);
    if (content === undefined) return false;
    const verdict = this.#window.offer(message.number);
    if (verdict === "ask") this.#publishCredit();
    if (verdict !== "next") return false;
    const frame = this.#read(content);
    if (frame?.kind !== "data") return false;
    this.#heardAtMs = this.#clock.nowMs();
    this.#queue.push({ slot, chunk: frame.data });
    this.#window.accept(frame.data.last);
    if (this.#window.creditDue) this.#publishCredit();
    this.#wake();
    return true;
  }

  /** What is sealed is the sender's own: if it makes no sense, to send it again would not help. */
  #read(content: Uint8Array): Frame | undefined {
    try {
      return decodeChunk(content);
    } catch (error) {
      const failure = GodwitError.from(error, "corrupt");
      this.#giveUp(failure, failure.message);
      return undefined;
    }
  }

  #decode({ chunk, slot }: StoredChunk): Uint8Array {
    let raw: Uint8Array;
    try {
      raw = this.#decompressor.decode(chunk);
      const checksum = this.#checksum(raw);
      if (checksum !== chunk.checksum)
        throw new GodwitError("corrupt", "a chunk of the image stream did not decode to what it was made of");
      this.#digest.update(checksumBytes(checksum));
      if (chunk.digest !== undefined && !this.#digest.digest().equals(chunk.digest)) {
        throw new GodwitError("corrupt", "the image stream arrived with a wrong digest; try the move again");
      }
    } catch (error) {
      // The chunk is the sender's own, so sending it again would not help.
      const failure = GodwitError.from(error, "corrupt");
      this.#giveUp(failure, failure.message);
      throw failure;
    }
    this.#pool.push(slot);
    this.#window.consume();
    if (this.#window.complete) this.#pool.length = 0; // what follows may be minutes of waiting for a farewell
    if (this.#window.creditDue) this.#publishCredit();
    return raw;
  }

  #publishCredit(): void {
    const figures = { ...this.#window.credit(), offersPages: this.#offersPages };
    this.#link?.publishSmall(SealedKind.credit, Credit.encode(Credit.fromPartial(figures)).finish());
  }

  #tick(): void {
    try {
      this.#link?.tick();
    } catch (error) {
      this.#giveUp(GodwitError.from(error));
      return;
    }
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
        const credit = Credit.encode(Credit.fromPartial({ error: reason })).finish();
        this.#link?.publishSmall(SealedKind.credit, credit);
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

const REFUSED = "refused: ";

/** A rule's or a budget's no stays one on its way to the target. */
const sourcesWord = (reason: string): GodwitError =>
  reason.startsWith(REFUSED)
    ? new GodwitError("refused", `the source refused: ${reason.slice(REFUSED.length)}`)
    : new GodwitError("cancelled", `the source gave up: ${reason}`);
