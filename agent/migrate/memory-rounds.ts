import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { ProcessMemory } from "../checkpoint/process-memory.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { HeldIndex } from "../keep/held-index.ts";
import type { Recording } from "../keep/recording.ts";
import type { WriteTracker } from "../tracking/write-tracker.ts";
import { type DumpToServe, LastRound } from "./last-round.ts";
import { PageCopier } from "./page-copier.ts";
import type { PageLedger } from "./page-ledger.ts";
import { PageWriter } from "./page-writer.ts";
import type { RoundFigures } from "./round-figures.ts";

/** Memory that is cheaper to send while its container stands still than to look at all the rest once more. */
const MISSED_BYTES = 8 * 1024 * 1024;

export interface MemoryRoundsTerms {
  readonly sender: ImageSender;
  readonly tracker: WriteTracker;
  /** What the target holds since the container's last stay there. */
  readonly held: HeldIndex | undefined;
  /** Gets what is sent while the container runs. */
  readonly recording: Recording | undefined;
  /** What an earlier copy has brought, if this one builds upon it. */
  readonly base?: PageLedger | undefined;
}

/**
 * Sends a container's memory in rounds. Each sends only content that the target has not: of the pages that the kernel
 * says were written, or of all where it does not tell, those whose hash is another than when they were sent.
 */
export class MemoryRounds {
  readonly #copier: PageCopier;
  readonly #tracker: WriteTracker;
  readonly #recording: Recording | undefined;
  #last: LastRound | undefined;
  rounds = 0;
  /** In all rounds. */
  heldPages = 0;

  constructor({ sender, tracker, held, recording, base }: MemoryRoundsTerms) {
    this.#copier = new PageCopier(sender, held, base?.fork());
    this.#tracker = tracker;
    this.#recording = recording;
  }

  /** What the other end has when all is sent. */
  get ledger(): PageLedger {
    return this.#copier.ledger;
  }

  /** One round while the container runs. */
  async copyRunning(pids: Iterable<number>, signal: AbortSignal): Promise<RoundFigures> {
    const startedAt = performance.now();
    const writer = new PageWriter(this.#copier.sender, this.#recording);
    for (const pid of new Set(pids)) {
      using memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      const tracked = await this.#tracker.track(memory);
      await this.#copier.send(memory, tracked.takeWritten(memory), writer, signal);
    }
    await this.#copier.sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));
    const tookMs = performance.now() - startedAt;
    this.rounds += 1;
    this.heldPages += writer.heldPages;
    if (this.rounds === 1) await this.prepareLast().rehearse(pids, signal);
    const { contentPages: changedPages, heldPages } = writer;
    return { pages: this.#copier.ledger.pages, changedPages, heldPages, tookMs };
  }

  /** Whether there are processes with much memory of which no round has sent anything. Before the first round: no. */
  hasMissed(pids: Iterable<number>): boolean {
    if (this.rounds === 0) return false;
    let bytes = 0;
    for (const pid of new Set(pids)) {
      using memory = ProcessMemory.open(pid);
      if (memory !== undefined && this.#tracker.find(memory) === undefined) bytes += memory.privateBytes;
    }
    return bytes > MISSED_BYTES;
  }

  /** Does before the freeze what the last round would have to do after it. */
  prepareLast(): LastRound {
    this.#last ??= new LastRound(this.#copier, this.#tracker);
    this.#copier.ledger.prepareRuns();
    return this.#last;
  }

  /** The last round, of a frozen container: see LastRound. */
  async copyFrozen(last: LastRound, dump: DumpToServe): Promise<RoundFigures> {
    const figures = await last.serve(dump);
    this.rounds += 1;
    this.heldPages += figures.heldPages;
    return figures;
  }
}
