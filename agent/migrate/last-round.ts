import { GodwitError } from "../../proto/contract/error.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { joined, type Pages, pagesOf, union, without } from "../checkpoint/page-runs.ts";
import type { PageSegment, PageServerHeader } from "../checkpoint/page-server.ts";
import { ProcessMemory } from "../checkpoint/process-memory.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { LastMapping } from "../tracking/tracked-process.ts";
import type { WriteTracker } from "../tracking/write-tracker.ts";
import { hearDump } from "./dump-listener.ts";
import type { RoundFigures } from "./round-figures.ts";
import { fairTurns, PageBuffer, type PageCopier, spaceOf } from "./page-copier.ts";
import { LAST_ROUND } from "./page-run.ts";
import { PageWriter } from "./page-writer.ts";

export interface DumpToServe {
  /** The socket that CRIU writes to. */
  readonly descriptor: number;
  readonly header: PageServerHeader;
  readonly pids: Iterable<number>;
  /** CRIU has its work, which it does on another core: before, what is done here would keep it waiting. */
  readonly begun: Promise<void>;
  readonly signal: AbortSignal;
}

/** A process of which CRIU is told that there is an image before this one. */
interface FrozenProcess {
  readonly memory: ProcessMemory;
  /**
   * By rising address. CRIU then names but one page of each mapping that it would dump (deploy/criu/tracking.c), and
   * this is what stands for it. Undefined: CRIU knows itself what was written.
   */
  readonly mappings: readonly LastMapping[] | undefined;
  readonly named: Set<LastMapping>;
}

/**
 * The last memory round, of a frozen container, which CRIU dumps into a socket instead of files. It sends what was
 * written since the round before, and says of what was sent earlier what is there no more: so that the work while the
 * container stands still grows with what was written and not with how many parts its memory lies in.
 */
export class LastRound {
  readonly #copier: PageCopier;
  readonly #tracker: WriteTracker;
  readonly #buffers = [new PageBuffer(), new PageBuffer()] as const;
  readonly #processes = new Map<string, FrozenProcess>();
  /** By address space in CRIU's order. */
  readonly #named = new Map<string, Pages[]>();

  constructor(copier: PageCopier, tracker: WriteTracker) {
    this.#copier = copier;
    this.#tracker = tracker;
  }

  /**
   * Does for a running container what `serve` does first for a frozen one, and forgets it: code that runs for the first
   * time takes several times as long as it does from the second on.
   */
  async rehearse(pids: Iterable<number>, signal: AbortSignal): Promise<void> {
    for (const pid of new Set(pids)) {
      using memory = ProcessMemory.open(pid);
      const tracked = memory === undefined ? undefined : this.#tracker.find(memory);
      if (memory === undefined || tracked === undefined) continue;
      const mappings = (await tracked.lookAtLast(memory, fairTurns(signal))) ?? [];
      const there = joined(mappings.flatMap((mapping) => mapping.there));
      const known = this.#copier.ledger.runs(spaceOf(memory));
      without(there, known);
      without(known, there);
    }
  }

  /** Serves CRIU's page-server protocol until CRIU closes the socket. */
  async serve({ descriptor, header, pids, begun, signal }: DumpToServe): Promise<RoundFigures> {
    await begun;
    const startedAt = performance.now();
    const { sender } = this.#copier;
    using opened = new DisposableStack();
    const written = new PageWriter(sender);
    for (const pid of new Set(pids)) {
      const memory = ProcessMemory.open(pid);
      if (memory !== undefined) await this.#sendWritten(opened.use(memory), written, signal);
    }
    if (written.contentPages + written.heldPages > 0) {
      await sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));
      // The target takes it in while CRIU dumps the rest.
      await sender.flush();
    }

    const writer = new PageWriter(sender);
    await hearDump({ descriptor, header }, this.#buffers, {
      opened: (space) => {
        this.#named.set(space, []);
        return this.#processes.has(space);
      },
      take: (segment, buffer) => this.#take(segment, buffer, writer),
      flush: (buffer) => writer.flush(buffer.bytes),
    });
    for (const [space, process] of this.#processes) await this.#sendUntold(space, process, writer, signal);
    const pages = await this.#sendLists(writer, signal);
    await sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END, name: LAST_ROUND }));
    await sender.flush();
    return {
      pages,
      changedPages: written.contentPages + writer.contentPages,
      heldPages: written.heldPages + writer.heldPages,
      tookMs: performance.now() - startedAt,
    };
  }

  async #sendWritten(memory: ProcessMemory, writer: PageWriter, signal: AbortSignal): Promise<void> {
    const tracked = this.#tracker.find(memory);
    if (tracked?.knowsWrites !== true) return;
    const mappings = await tracked.lookAtLast(memory, fairTurns(signal));
    const runs = (mappings ?? []).flatMap((mapping) => mapping.written ?? []);
    await this.#copier.send(memory, runs, writer, signal);
    this.#processes.set(spaceOf(memory), { memory, mappings, named: new Set() });
  }

  #take({ space, address, pages, offset }: PageSegment, buffer: PageBuffer, writer: PageWriter): void {
    const named = this.#named.get(space);
    if (named === undefined) throw new GodwitError("internal", "CRIU names pages of nobody");
    named.push({ address, pages });
    if (offset !== undefined) this.#copier.compare(buffer, offset, { space, address, pages }, writer);
    const process = this.#processes.get(space);
    if (process?.mappings === undefined) return;
    for (const mapping of within(process.mappings, address, address + pages * PAGE_BYTES)) {
      process.named.add(mapping);
    }
  }

  /** Pages about which nobody can tell whether they were written: they are compared. */
  async #sendUntold(
    space: string,
    { memory, named }: FrozenProcess,
    writer: PageWriter,
    signal: AbortSignal,
  ): Promise<void> {
    if (!this.#named.has(space)) return;
    const runs = [...named].flatMap(({ written, there }) => (written === undefined ? there : []));
    await this.#copier.send(memory, runs, writer, signal);
  }

  /** Answers how many pages there are. */
  async #sendLists(writer: PageWriter, signal: AbortSignal): Promise<number> {
    let pages = 0;
    for (const [space, named] of this.#named) {
      const process = this.#processes.get(space);
      // Its mappings rise as they are; what CRIU names is little.
      const stoodFor = process?.mappings?.filter((mapping) => process.named.has(mapping)) ?? [];
      const there = union(
        stoodFor.flatMap((mapping) => mapping.there),
        joined(named),
      );
      const missing = without(there, this.#copier.ledger.runs(space));
      if (missing.length > 0) await this.#sendMissing(space, missing, writer, signal);
      await writer.writeSpace(space, without(this.#copier.ledger.runs(space), there));
      pages += pagesOf(there);
    }
    return pages;
  }

  /** What CRIU leaves out although the target has it not: what the kernel itself provides, for example. */
  async #sendMissing(
    space: string,
    missing: readonly Pages[],
    writer: PageWriter,
    signal: AbortSignal,
  ): Promise<void> {
    const memory = this.#processes.get(space)?.memory;
    if (memory !== undefined) await this.#copier.send(memory, missing, writer, signal);
    const [still] = without(missing, this.#copier.ledger.runs(space));
    if (still === undefined) return;
    throw new GodwitError(
      "internal",
      `page ${still.address.toString(16)} of ${space} cannot be read while it is frozen`,
    );
  }
}

/** The mappings, which rise, that the range from `start` to `end` touches. */
export function* within<M extends AddressRange>(
  mappings: readonly M[],
  start: number,
  end: number,
): Generator<M> {
  let low = 0;
  let high = mappings.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((mappings[middle]?.end ?? 0) <= start) low = middle + 1;
    else high = middle;
  }
  for (let at = low; at < mappings.length; at += 1) {
    const mapping = mappings[at];
    if (mapping === undefined || mapping.start >= end) return;
    yield mapping;
  }
}
