import { readFileSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { joined, type Pages, pagesOf, without } from "../checkpoint/page-runs.ts";
import { lazyRanges } from "../checkpoint/pagemap-image.ts";
import type { PageSegment } from "../checkpoint/page-server.ts";
import { ProcessMemory } from "../checkpoint/process-memory.ts";
import { splitByRanges } from "../checkpoint/split-ranges.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { PagemapScanner } from "../native/pagemap-scan.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import { lookAt } from "../tracking/look.ts";
import type { WriteTracking } from "../tracking/support.ts";
import { hearDump } from "./dump-listener.ts";
import { type DumpToServe, within } from "./last-round.ts";
import type { RoundFigures } from "./round-figures.ts";
import { fairTurns, PageBuffer, PageCopier, spaceOf } from "./page-copier.ts";
import { LAST_ROUND } from "./page-run.ts";
import { PageWriter } from "./page-writer.ts";

/** A mapping of a frozen process with the pages that have content of their own. */
interface NamedMapping {
  readonly start: number;
  readonly end: number;
  readonly there: readonly Pages[];
}

interface FrozenSpace {
  readonly memory: ProcessMemory;
  /** CRIU names but one page of each (deploy/criu/tracking.c). Undefined: it names all itself. */
  readonly mappings: readonly NamedMapping[] | undefined;
  readonly named: Set<NamedMapping>;
}

/** How much of the memory will follow. */
export interface NamesFigures extends RoundFigures {
  readonly followingPages: number;
}

/**
 * The only memory round of a post-copy: of the pages of a frozen container it says which there are, and brings only those
 * that a restore cannot do without (see lazyRanges). The others are asked for when the container runs at the target.
 */
export class NamesRound {
  readonly #copier: PageCopier;
  readonly #tracking: WriteTracking["kind"];
  readonly #imagesDir: string;
  readonly #buffers = [new PageBuffer(), new PageBuffer()] as const;
  readonly #scanner = new PagemapScanner();
  readonly #spaces = new Map<string, FrozenSpace>();
  /** By address space in CRIU's order. */
  readonly #there = new Map<string, Pages[]>();

  /** @param imagesDir where CRIU dumps to */
  constructor(sender: ImageSender, tracking: WriteTracking["kind"], imagesDir: string) {
    this.#copier = new PageCopier(sender, undefined);
    this.#tracking = tracking;
    this.#imagesDir = imagesDir;
  }

  /** See LastRound. */
  async serve({ descriptor, header, pids, begun, signal }: DumpToServe): Promise<NamesFigures> {
    await begun;
    const startedAt = performance.now();
    using opened = new DisposableStack();
    const turn = fairTurns(signal);
    for (const pid of new Set(pids)) {
      const memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      const mappings = this.#tracking === "write-protect" ? await this.#look(memory, turn) : undefined;
      this.#spaces.set(spaceOf(opened.use(memory)), { memory, mappings, named: new Set() });
    }
    const writer = new PageWriter(this.#copier.sender);
    await hearDump({ descriptor, header }, this.#buffers, {
      opened: (space) => {
        this.#there.set(space, []);
        return this.#spaces.get(space)?.mappings !== undefined;
      },
      take: (segment, buffer) => this.#take(segment, buffer, writer),
      flush: (buffer) => writer.flush(buffer.bytes),
    });
    let pages = 0;
    let followingPages = 0;
    for (const [space, named] of this.#there) {
      const there = joined(named);
      pages += pagesOf(there);
      followingPages += await this.#sendNames(space, there, writer, signal);
    }
    await this.#copier.sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END, name: LAST_ROUND }));
    const { contentPages: changedPages, heldPages } = writer;
    return { pages, changedPages, heldPages, followingPages, tookMs: performance.now() - startedAt };
  }

  async #look(memory: ProcessMemory, turn: () => Promise<void>): Promise<NamedMapping[]> {
    const looked: NamedMapping[] = [];
    for (const { start, end } of memory.mappings()) {
      const { there } = await lookAt(this.#scanner, memory.pagemap, { start, end }, turn);
      looked.push({ start, end, there });
    }
    return looked;
  }

  #take({ space, address, pages, offset }: PageSegment, buffer: PageBuffer, writer: PageWriter): void {
    const there = this.#there.get(space);
    if (there === undefined) throw new GodwitError("internal", "CRIU names pages of nobody");
    there.push({ address, pages });
    const process = this.#spaces.get(space);
    // Shared memory, which is nobody's to be read from.
    if (process === undefined && offset !== undefined)
      this.#copier.compare(buffer, offset, { space, address, pages }, writer);
    for (const mapping of within(process?.mappings ?? [], address, address + pages * PAGE_BYTES)) {
      if (process === undefined || process.named.has(mapping)) continue;
      process.named.add(mapping);
      there.push(...mapping.there);
    }
  }

  /** Answers how many pages will follow. */
  async #sendNames(
    space: string,
    there: readonly Pages[],
    writer: PageWriter,
    signal: AbortSignal,
  ): Promise<number> {
    const memory = this.#spaces.get(space)?.memory;
    const ranges = memory === undefined ? [] : lazyRanges(this.#mmImage(memory));
    const [following, now]: [Pages[], Pages[]] = [[], []];
    for (const run of there)
      for (const { address, pages, inside } of splitByRanges(run, ranges))
        (inside ? following : now).push({ address, pages });
    if (memory !== undefined) await this.#copier.send(memory, now, writer, signal);
    const [missing] = without(now, this.#copier.ledger.runs(space));
    if (missing !== undefined)
      throw new GodwitError(
        "internal",
        `page ${missing.address.toString(16)} of ${space} cannot be read while it is frozen`,
      );
    await writer.writeSpace(space, []);
    await writer.writeFollowing(space, following);
    return pagesOf(following);
  }

  #mmImage({ innerPid }: ProcessMemory): Buffer {
    return readFileSync(`${this.#imagesDir}/mm-${innerPid}.img`);
  }
}
