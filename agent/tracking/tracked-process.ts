import { closeSync, writeFileSync } from "node:fs";

import type { Mapping, MemoryRun, ProcessMemory } from "../checkpoint/process-memory.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { Pages } from "../checkpoint/page-runs.ts";
import { type AddressRange, PagemapScanner, type ScanOptions } from "../native/pagemap-scan.ts";
import { enableWriteTracking, trackWrites } from "../native/userfaultfd.ts";
import { lookAt } from "./look.ts";
import type { WriteTracking } from "./support.ts";
import type { Tracer } from "./tracer.ts";

/**
 * Mappings whose written pages the kernel tells apart. Pages of private file mappings are few and may turn into the
 * file's again; CRIU puts its code into executable ones while it dumps: these are compared instead.
 */
function isTracked(mapping: Mapping): boolean {
  return mapping.anonymous && !mapping.executable;
}

/** So many are compared in each round rather than tracked: a millisecond's work. */
const COMPARED_PAGES = 512;

/** A mapping of a frozen process. All by rising address. */
export interface LastMapping extends AddressRange {
  /** Its pages with content of their own. */
  readonly there: readonly Pages[];
  /** Of these what was written since the last round; undefined: nobody can tell. */
  readonly written: readonly MemoryRun[] | undefined;
}

/**
 * What is known of a running process's writes. Its memory is opened anew by the caller each time, for a process that
 * becomes another program (execve) leaves its old one behind; nothing is tracked then, which reads as all written.
 */
export class TrackedProcess implements Disposable {
  readonly startTicks: number;
  readonly #pid: number;
  readonly #scanner = new PagemapScanner();
  #userfaultfd: number | undefined;
  #marksSoftDirty: boolean;
  #tracksAny = false;

  private constructor(memory: ProcessMemory, userfaultfd: number | undefined, marksSoftDirty: boolean) {
    this.#pid = memory.pid;
    this.startTicks = memory.startTicks;
    this.#userfaultfd = userfaultfd;
    this.#marksSoftDirty = marksSoftDirty;
  }

  /**
   * @param tracer needed for write protection
   * @param onUntracked told why the writes of a process cannot be tracked, so that all of it will be compared
   */
  static async begin(
    memory: ProcessMemory,
    tracking: WriteTracking["kind"],
    tracer: Tracer | undefined,
    onUntracked: (reason: string) => void,
  ): Promise<TrackedProcess> {
    let userfaultfd: number | undefined;
    if (tracking === "write-protect" && tracer !== undefined) {
      try {
        userfaultfd = await tracer.userfaultfdOf(memory.pid);
        enableWriteTracking(userfaultfd);
      } catch (error) {
        if (userfaultfd !== undefined) closeSync(userfaultfd);
        userfaultfd = undefined;
        onUntracked((error as Error).message);
      }
    }
    return new TrackedProcess(memory, userfaultfd, tracking === "soft-dirty");
  }

  /** Whether CRIU may be told that pages which were not written have been sent. */
  get knowsWrites(): boolean {
    return this.#userfaultfd !== undefined || this.#marksSoftDirty;
  }

  /**
   * Runs of pages to look at in a round, by rising address, whose writes are tracked anew from then on: those that
   * were written since the round before where the kernel tells, else all.
   */
  *takeWritten(memory: ProcessMemory): Generator<MemoryRun> {
    const userfaultfd = this.#userfaultfd;
    if (userfaultfd === undefined) {
      // Before anything is read: that a page is read twice costs time, that a write is missed would cost the page.
      if (this.#marksSoftDirty) this.#marksSoftDirty = this.#clearSoftDirty();
      yield* memory.runs();
      return;
    }
    const fresh = this.#trackMore(memory, userfaultfd);
    for (const mapping of memory.mappings()) {
      const { start, end } = mapping;
      const isFresh = fresh.some((stretch) => stretch.start < end && start < stretch.end);
      const reset = isFresh ? "all-reset" : "written-reset";
      yield* this.#scan(memory, mapping, isTracked(mapping) ? reset : "all");
    }
  }

  /**
   * Has the kernel track what it does not. Answers where: whatever is there counts as written, for mappings can lose
   * their tracking while they keep the marks (mremap, when what is moved becomes one mapping with its neighbours), and
   * writes after that leave no trace. So what is not tracked any more is compared, as long as it is little, and is not
   * made to look as if it had been tracked all the time.
   *
   * A mapping that has changed since the kernel was asked would be registered in part, and so be cut in two: its process
   * could not move it any more (mremap: EFAULT). Gaps and all, what it may have become is registered too.
   */
  #trackMore(memory: ProcessMemory, userfaultfd: number): AddressRange[] {
    const untracked = memory
      .mappings()
      .filter((mapping) => isTracked(mapping) && !this.#scanner.isTracked(memory.pagemap, mapping));
    let pages = 0;
    for (const mapping of untracked) for (const run of this.#scan(memory, mapping, "all")) pages += run.pages;
    if (this.#tracksAny && pages <= COMPARED_PAGES) return [];
    this.#tracksAny = true;
    return memory
      .stretches(isTracked)
      .filter(
        (stretch) =>
          untracked.some(({ start, end }) => start < stretch.end && stretch.start < end) &&
          trackWrites(userfaultfd, stretch),
      );
  }

  /**
   * For a frozen process under write protection: which pages there are, and which of them were written since the last
   * round. Undefined when the kernel marks writes otherwise: whoever dumps it then knows them. `turn` is awaited now and
   * then.
   */
  async lookAtLast(
    memory: ProcessMemory,
    turn: () => Promise<void>,
  ): Promise<readonly LastMapping[] | undefined> {
    if (this.#userfaultfd === undefined) return undefined;
    const looked: LastMapping[] = [];
    for (const mapping of memory.mappings()) {
      const { start, end } = mapping;
      const told = isTracked(mapping) && this.#scanner.isTracked(memory.pagemap, mapping);
      const { there, written } = await lookAt(this.#scanner, memory.pagemap, mapping, turn);
      looked.push({ start, end, there, written: told ? written : undefined });
    }
    return looked;
  }

  *#scan(
    memory: ProcessMemory,
    { start, end }: AddressRange,
    pages: ScanOptions["pages"],
  ): Generator<MemoryRun> {
    for (const found of this.#scanner.scan(memory.pagemap, { start, end, pages }))
      yield { address: found.start, pages: (found.end - found.start) / PAGE_BYTES };
  }

  #clearSoftDirty(): boolean {
    try {
      writeFileSync(`/proc/${this.#pid}/clear_refs`, "4");
      return true;
    } catch {
      return false; // it has ended
    }
  }

  /** Ends the tracking, at once and in whatever state the process is. */
  [Symbol.dispose](): void {
    if (this.#userfaultfd !== undefined) closeSync(this.#userfaultfd);
    this.#userfaultfd = undefined;
  }
}
