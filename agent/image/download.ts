import { setTimeout as delay } from "node:timers/promises";

import { jetstream, JetStreamApiError, jetstreamManager } from "@nats-io/jetstream";
import { Objm, type ObjectInfo } from "@nats-io/obj";
import { type NatsConnection, PermissionViolationError, RequestError } from "@nats-io/transport-node";
import type { Logger } from "pino";
import zstd from "zstd-napi/binding.js";

import { GodwitError } from "../../proto/contract/error.ts";
import { IMAGE_STORE } from "../../proto/contract/subjects.ts";

const ANSWER_MS = 5_000;
const AGAIN_MS = 250;
/** A server that begins may say no to what it has not read yet. */
const REFUSED_MS = 5_000;

const unavailable = (object: string, what: string, cause?: unknown): GodwitError =>
  new GodwitError("unavailable", `${object} cannot be read from the image store: ${what}`, { cause });

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

interface Download {
  readonly connection: NatsConnection;
  /** Its name in the image store. */
  readonly object: string;
  readonly logger: Pick<Logger, "warn">;
  readonly signal: AbortSignal;
}

/**
 * The bytes of an object in the image store, chunk by chunk (128 to 512 KiB each) as the caller takes them.
 * The object store client of @nats-io/obj would take the whole object into memory if it is written slower
 * than it arrives, and its consumer waits for ever when NATS is gone; so each chunk (subject
 * $O.<bucket>.C.<nuid> of the stream OBJ_<bucket>, see NATS ADR-20) is asked for by a request of its own.
 * A server that does not answer is asked again until `signal` says otherwise: a container whose host has lost
 * NATS for a while has not failed to start, and must not be counted as one that did. Nothing is checked against
 * the object's own digest: the caller has a better one. Throws GodwitError `not-found`, and `unavailable` when
 * the connection is closed for good or the server goes on saying no.
 */
export async function* downloadObject(download: Download): AsyncGenerator<Uint8Array, void, undefined> {
  const { connection, object, signal } = download;
  signal.throwIfAborted();
  const info = await insist(download, () => findObject(connection, object));
  const subject = `$O.${IMAGE_STORE}.C.${info.nuid}`;
  // Whether JetStream is there has been asked for already.
  const manager = await jetstreamManager(connection, { timeout: ANSWER_MS, checkAPI: false });
  for (let taken = 0, sequence = 1; taken < info.chunks; taken++) {
    const query = { seq: sequence, next_by_subj: subject };
    const message = await insist(
      download,
      async () => await manager.direct.getMessage(`OBJ_${IMAGE_STORE}`, query),
    );
    signal.throwIfAborted();
    if (message === null)
      throw unavailable(object, `chunk ${taken} of ${info.chunks} is not there (any more)`);
    sequence = message.seq + 1;
    yield message.data;
  }
}

/** The server is there and refuses: no right to ask, no such store (which @nats-io/obj says with a plain Error). */
function isRefusal(error: unknown): boolean {
  const cause: unknown = error instanceof RequestError ? error.cause : error;
  if (cause instanceof JetStreamApiError) return cause.code < 500;
  return cause instanceof PermissionViolationError || (cause instanceof Error && cause.constructor === Error);
}

/** Asks until there is an answer. */
async function insist<T>(
  { connection, object, logger, signal }: Download,
  ask: () => Promise<T>,
): Promise<T> {
  let refusedSinceMs: number | undefined;
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof GodwitError) throw error;
      refusedSinceMs = isRefusal(error) ? (refusedSinceMs ?? performance.now()) : undefined;
      const isRefused = refusedSinceMs !== undefined && performance.now() - refusedSinceMs > REFUSED_MS;
      if (isRefused || connection.isClosed()) throw unavailable(object, messageOf(error), error);
      if (attempt === 0)
        logger.warn({ err: error, object }, "the image store does not answer and is asked again");
      await delay(AGAIN_MS, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }
}

async function findObject(connection: NatsConnection, object: string): Promise<ObjectInfo> {
  const manager = new Objm(jetstream(connection, { timeout: ANSWER_MS }));
  const info = await (await manager.open(IMAGE_STORE)).info(object);
  if (info === null || info.deleted) {
    throw new GodwitError("not-found", `${object} is not in the image store; import the image again`);
  }
  return info;
}

/** Throws GodwitError `corrupt` for what is not zstd or is cut short. The pieces are the caller's own. */
export async function* decompress(
  compressed: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const context = new zstd.DCtx();
  const pieceBytes = zstd.dStreamOutSize();
  let hint = 0;
  for await (const chunk of compressed) {
    let source = chunk;
    for (let full = false; source.byteLength > 0 || full;) {
      const piece = Buffer.allocUnsafeSlow(pieceBytes);
      let [produced, consumed] = [0, 0];
      try {
        [hint, produced, consumed] = context.decompressStream(piece, source);
      } catch (error) {
        throw new GodwitError("corrupt", "the image layer does not decompress; import the image again", {
          cause: error,
        });
      }
      source = source.subarray(consumed);
      // A frame that ends with a full piece is out in full: asked once more, the decoder would want the next frame's head.
      full = produced === pieceBytes && hint !== 0;
      if (produced > 0) yield piece.subarray(0, produced);
    }
  }
  if (hint !== 0) throw new GodwitError("corrupt", "the image layer is cut short; import the image again");
}
