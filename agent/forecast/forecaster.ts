import type { NatsConnection } from "@nats-io/transport-node";

import { MigrationForecast, MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { budgetRefusal, type Forecast, type MoveSubject, type MoveTerms } from "../model/forecast.ts";
import {
  arrivalMs,
  bytesPerSecondTo,
  cappedRate,
  type MoveSize,
  unmeasuredRate,
} from "../model/move-costs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { CostBook } from "./cost-book.ts";
import { askPeer } from "./peer-probe.ts";

/** What the other modes come down to is pre-copy. */
const WORDS: ReadonlyMap<MigrationMode, MoveTerms["mode"]> = new Map([
  [MigrationMode.CHECKPOINT, "checkpoint"],
  [MigrationMode.PRECOPY, "precopy"],
  [MigrationMode.POSTCOPY, "postcopy"],
]);

export interface MoveQuestion {
  readonly subject: MoveSubject;
  readonly to: string;
  readonly mode: MigrationMode;
  readonly budgetMs: number;
  readonly canThrottle: boolean;
  /** On the wire; 0: no cap. */
  readonly bandwidthBytesPerSecond: number;
}

export const sizeOf = ({ memoryPages, processes }: MoveSubject): MoveSize => ({
  memoryBytes: memoryPages * PAGE_BYTES,
  processes,
});

/** What is known of this host, its peer and the link between them; the peer is asked. */
export async function termsOf(
  connection: NatsConnection,
  book: CostBook,
  question: MoveQuestion,
): Promise<MoveTerms> {
  const { subject, to, mode, budgetMs, canThrottle, bandwidthBytesPerSecond } = question;
  const size = sizeOf(subject);
  const measured = bytesPerSecondTo(book.costs, to);
  const peer = await askPeer(connection, to, size, measured === undefined);
  const probed = peer?.bytesPerSecond === undefined ? undefined : book.probed(to, peer.bytesPerSecond);
  return {
    subject,
    costs: book.costs,
    arrivalMs: peer?.arrivalMs ?? arrivalMs(book.costs, size),
    bytesPerSecond: cappedRate(
      measured ?? unmeasuredRate(probed, subject.compressedShare),
      bandwidthBytesPerSecond,
      subject.compressedShare,
    ),
    mode: WORDS.get(mode) ?? "precopy",
    budgetMs,
    canThrottle,
  };
}

export function forecastMessage(terms: MoveTerms, forecast: Forecast): MigrationForecast {
  const { isRefused, blackoutMs } = forecast;
  return MigrationForecast.fromPartial({
    ...forecast,
    mode: [...WORDS].find(([, word]) => word === terms.mode)?.[0] ?? MigrationMode.PRECOPY,
    filesystemBytes: terms.subject.filesystemBytes,
    processes: terms.subject.processes,
    copyBytesPerSecond: terms.bytesPerSecond,
    refusal: isRefused ? budgetRefusal("the blackout budget cannot be kept", blackoutMs, terms.budgetMs) : "",
  });
}
