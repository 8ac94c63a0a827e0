import type { NatsConnection } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { LogChunk, type LogsOpen } from "../../proto/gen/godwit/v1/agent.ts";
import { followLog, logRange, type LogPiece, readLog, tailOffset } from "../shim/log-store.ts";

const CHUNK_BYTES = 256 * 1024;
/**
 * Core NATS knows no back-pressure. After so many chunks the server is waited for, which bounds what this agent
 * holds; what a slow client leaves unread is bounded by the API, which ends the session and goes on from its
 * offset later.
 */
const CHUNKS_PER_FLUSH = 8;

export type EndReason = "moved" | "removed" | "done";

/** One client that reads a container's log. */
export class LogSession {
  readonly containerId: string;
  readonly outputSubject: string;
  readonly #connection: NatsConnection;
  readonly #open: LogsOpen;
  readonly #directory: string;
  readonly #stopping = new AbortController();
  /** Aborted when the log gets no longer: what there is is sent still. */
  readonly #finishing = new AbortController();
  #reason = "done";
  #unflushedChunks = 0;

  constructor(connection: NatsConnection, open: LogsOpen, directory: string) {
    this.containerId = open.containerId;
    this.outputSubject = open.outputSubject;
    this.#connection = connection;
    this.#open = open;
    this.#directory = directory;
  }

  /** Ends the session at once; the client is told `reason`. */
  stop(reason: string): void {
    if (this.#stopping.signal.aborted) return;
    this.#reason = reason;
    this.#stopping.abort();
  }

  /** Ends the session when everything that the log has now is sent. */
  finish(reason: EndReason): void {
    if (this.#stopping.signal.aborted || this.#finishing.signal.aborted) return;
    this.#reason = reason;
    this.#finishing.abort();
  }

  /** Sends the log and its end. */
  async run(): Promise<void> {
    let next = this.#open.fromOffset;
    let failure: string | undefined;
    try {
      if (next === 0) next = await tailOffset(this.#directory, this.#open.tail);
      // Tells where the client is, although there may be nothing to read for long.
      this.#send({ offset: next });
      const pieces = this.#open.follow ? this.#follow(next) : this.#read(next);
      for await (const { offset, data } of pieces) {
        if (this.#stopping.signal.aborted) break;
        await this.#sendPiece(offset, data);
        next = offset + data.length;
      }
    } catch (error) {
      failure = `the log cannot be read: ${GodwitError.from(error).message}`;
    }
    this.#send({ offset: next, end: true, reason: failure ?? this.#reason });
    await this.#connection.flush();
  }

  #follow(from: number): AsyncIterable<LogPiece> {
    return followLog(this.#directory, from, this.#stopping.signal, this.#finishing.signal);
  }

  /** What is there now, however fast the container writes meanwhile. */
  async *#read(from: number): AsyncGenerator<LogPiece> {
    const { endOffset } = await logRange(this.#directory);
    for (let next = from; next < endOffset;) {
      const piece = await readLog(this.#directory, next, CHUNK_BYTES);
      if (piece.data.length === 0) return;
      yield piece;
      next = piece.offset + piece.data.length;
    }
  }

  async #sendPiece(offset: number, data: Buffer): Promise<void> {
    for (let sent = 0; sent < data.length; sent += CHUNK_BYTES) {
      this.#send({ offset: offset + sent, data: data.subarray(sent, sent + CHUNK_BYTES) });
      this.#unflushedChunks += 1;
      if (this.#unflushedChunks < CHUNKS_PER_FLUSH) continue;
      this.#unflushedChunks = 0;
      await this.#connection.flush();
    }
  }

  #send(chunk: Partial<LogChunk>): void {
    this.#connection.publish(this.outputSubject, LogChunk.encode(LogChunk.fromPartial(chunk)).finish());
  }
}
