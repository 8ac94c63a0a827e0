import { jetstream, jetstreamManager, type StoredMsg } from "@nats-io/jetstream";
import { Objm, type ObjectInfo } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import zstd from "zstd-napi/binding.js";

import { GodwitError } from "../../proto/contract/error.ts";
import { IMAGE_STORE } from "../../proto/contract/subjects.ts";

const ANSWER_MS = 5_000;

const unavailable = (object: string, what: string, cause?: unknown): GodwitError =>
  new GodwitError("unavailable", `${object} cannot be read from the image store: ${what}`, { cause });

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * The bytes of an object in the image store, chunk by chunk (128 to 512 KiB each) as the caller takes them.
 * The object store client of @nats-io/obj would take the whole object into memory if it is written slower
 * than it arrives, and its consumer waits for ever when NATS is gone; so each chunk (subject
 * $O.<bucket>.C.<nuid> of the stream OBJ_<bucket>, see NATS ADR-20) is asked for by a request of its own.
 * Nothing is checked against the object's own digest: the caller has a better one. Throws GodwitError
 * `not-found` or `unavailable`.
 */
export async function* downloadObject(
  connection: NatsConnection,
  object: string,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  signal.throwIfAborted();
  const info = await findObject(connection, object);
  const subject = `$O.${IMAGE_STORE}.C.${info.nuid}`;
  // Whether JetStream is there has been asked for already.
  const manager = await jetstreamManager(connection, { timeout: ANSWER_MS, checkAPI: false });
  for (let taken = 0, sequence = 1; taken < info.chunks; taken++) {
    let message: StoredMsg | null;
    try {
      message = await manager.direct.getMessage(`OBJ_${IMAGE_STORE}`, {
        seq: sequence,
        next_by_subj: subject,
      });
    } catch (error) {
      throw unavailable(object, messageOf(error), error);
    }
    signal.throwIfAborted();
    if (message === null)
      throw unavailable(object, `chunk ${taken} of ${info.chunks} is not there (any more)`);
    sequence = message.seq + 1;
    yield message.data;
  }
}

async function findObject(connection: NatsConnection, object: string): Promise<ObjectInfo> {
  let info: ObjectInfo | null;
  try {
    const manager = new Objm(jetstream(connection, { timeout: ANSWER_MS }));
    info = await (await manager.open(IMAGE_STORE)).info(object);
  } catch (error) {
    throw unavailable(object, messageOf(error), error);
  }
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
