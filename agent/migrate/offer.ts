import { GodwitError } from "../../proto/contract/error.ts";
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import type { Host } from "../host.ts";
import type { HeldIndex } from "../keep/held-index.ts";
import type { HeldMemory } from "../keep/held-memory.ts";
import { readOffer, sendOffer } from "../keep/held-offer.ts";
import { openReceiver } from "../stream/receiver.ts";
import { readRecords } from "../stream/records.ts";
import { openSender } from "../stream/sender.ts";
import { offerEnds, STREAM_IDLE_MS } from "./stream-ends.ts";

/** Tells the source which pages this host holds, as soon as it asks. */
export class Offer implements Disposable {
  readonly #over = new AbortController();

  constructor(host: Host, order: MigrationOrder, memory: HeldMemory, moves: AbortSignal) {
    const signal = AbortSignal.any([moves, this.#over.signal]);
    void (async () => {
      try {
        await using sender = await openSender({
          connection: host.connection,
          ends: offerEnds(host, "target", order),
          signal,
          idleTimeoutMs: STREAM_IDLE_MS,
        });
        await sendOffer(sender, memory.index);
      } catch (error) {
        // The source then sends everything.
        if (!signal.aborted)
          host.logger.warn({ err: error, migration: order.id }, "the source was not told what is held here");
      }
    })();
  }

  [Symbol.dispose](): void {
    this.#over.abort(new GodwitError("cancelled", "the image is here"));
  }
}

/** The target holds pages already, or says so, and has an open ear: it is not waited for any longer. */
const OFFER_MS = 10_000;

/** Which pages the target holds. Without its word they are all sent. */
export async function takeOffer(
  host: Host,
  order: MigrationOrder,
  moves: AbortSignal,
): Promise<{ index: HeldIndex; bytes: number } | undefined> {
  try {
    const signal = AbortSignal.any([moves, AbortSignal.timeout(OFFER_MS)]);
    await using receiver = await openReceiver({
      connection: host.connection,
      ends: offerEnds(host, "source", order),
      signal,
    });
    const index = await readOffer(readRecords(receiver.chunks()));
    return { index, bytes: receiver.receivedBytes };
  } catch (error) {
    moves.throwIfAborted();
    host.logger.warn({ err: error, migration: order.id }, "which pages the target holds did not arrive");
    return undefined;
  }
}
