import { randomFillSync } from "node:crypto";

import type { NatsConnection } from "@nats-io/transport-node";

import { probeSubject } from "../../proto/contract/subjects.ts";
import { PeerProbe, PeerProbeReply } from "../../proto/gen/godwit/v1/agent.ts";
import { arrivalMs, type MoveSize } from "../model/move-costs.ts";
import type { CostBook } from "./cost-book.ts";

const ANSWER_WITHIN_MS = 2_000;
/** A burst is long enough to tell a link's rate from its latency; all of them are short enough for a slow one. */
const FILLERS_IN_BURST = 4;
const FILLER_BYTES = 512 * 1024;
/** The fastest counts: what slows one down is other work, not the link. */
const BURSTS = 3;
/** A link that takes longer is measured by one. */
const ENOUGH_MS = 300;

/** Does not shrink, in case something on the way compresses. */
const filler = (): Buffer => randomFillSync(Buffer.allocUnsafe(FILLER_BYTES));

export interface PeerFindings {
  /** From its last byte to its first instruction there. */
  readonly arrivalMs: number;
  /** Of the link, when it was asked for. */
  readonly bytesPerSecond?: number;
}

/** Undefined when the peer does not answer: it may be of an older version, or busy. */
export async function askPeer(
  connection: NatsConnection,
  peer: string,
  size: MoveSize,
  measureLink: boolean,
): Promise<PeerFindings | undefined> {
  const request = async (bytes: Buffer): Promise<PeerProbeReply> => {
    const probe = PeerProbe.encode({
      filler: bytes,
      processes: size.processes,
      memoryBytes: size.memoryBytes,
    });
    const answer = await connection.request(probeSubject(peer), probe.finish(), {
      timeout: ANSWER_WITHIN_MS,
    });
    return PeerProbeReply.decode(answer.data);
  };
  try {
    const startedAt = performance.now();
    const { arrivalMs: expectedMs } = await request(Buffer.alloc(0));
    const roundTripMs = performance.now() - startedAt;
    if (!Number.isFinite(expectedMs) || expectedMs < 0) return undefined;
    if (!measureLink) return { arrivalMs: expectedMs };
    const bytes = filler();
    let fastestMs = Infinity;
    const begunAt = performance.now();
    for (let burst = 0; burst < BURSTS && performance.now() - begunAt < ENOUGH_MS; burst += 1) {
      const filledAt = performance.now();
      await Promise.all(Array.from({ length: FILLERS_IN_BURST }, () => request(bytes)));
      fastestMs = Math.min(fastestMs, Math.max(1, performance.now() - filledAt - roundTripMs));
    }
    return { arrivalMs: expectedMs, bytesPerSecond: ((FILLERS_IN_BURST * FILLER_BYTES) / fastestMs) * 1000 };
  } catch {
    return undefined;
  }
}

/** Answers the probes of other hosts until it is disposed. */
export function serveProbes(connection: NatsConnection, node: string, book: CostBook): Disposable {
  const subscription = connection.subscribe(probeSubject(node), {
    callback: (error, message) => {
      if (error !== null) return; // the connection's own log tells
      let probe: PeerProbe;
      try {
        probe = PeerProbe.decode(message.data);
      } catch {
        return; // whoever sends what is no probe gets no answer
      }
      message.respond(PeerProbeReply.encode({ arrivalMs: arrivalMs(book.costs, probe) }).finish());
    },
  });
  return { [Symbol.dispose]: () => subscription.unsubscribe() };
}
