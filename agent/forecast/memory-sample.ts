import { setImmediate } from "node:timers/promises";

import { ProcessMemory } from "../checkpoint/process-memory.ts";
import type { DirtySample } from "../model/dirty-curve.ts";
import { PAGE_BYTES, PageHasher } from "../native/page-hash.ts";
import { sizeIn } from "../stream/compression.ts";
import { COMPRESSED_FORMS } from "../stream/form-choice.ts";

/** So many pages stand for all: each look reads 16 MiB at most, in about 15 ms. */
const SAMPLE_PAGES = 4_096;
/** Between two turns of the event loop. */
const PAGES_PER_TURN = 256;
/** For the compressed size: 1 MiB. */
const COMPRESSED_PAGES = 256;

interface SampledPage {
  readonly pid: number;
  readonly address: number;
  hash: bigint;
  isChanged: boolean;
}

/**
 * A random sample of a running container's pages, looked at again later: what share has changed says how fast the
 * whole is being written. Costs the container nothing.
 */
export class MemorySample {
  readonly processes: number;
  /** All of them, not only the sampled ones. */
  readonly memoryPages: number;
  readonly #pages: readonly SampledPage[];
  readonly #buffer = Buffer.allocUnsafeSlow(PAGE_BYTES);
  readonly #hasher = new PageHasher(this.#buffer);
  readonly #dirty: DirtySample[] = [];
  #takenAtMs = 0;
  compressedShare = 1;

  private constructor(processes: number, memoryPages: number, pages: readonly SampledPage[]) {
    this.processes = processes;
    this.memoryPages = memoryPages;
    this.#pages = pages;
  }

  static async take(pids: readonly number[], signal: AbortSignal): Promise<MemorySample> {
    let pages: SampledPage[] = [];
    let memoryPages = 0;
    let processes = 0;
    let share = 1;
    for (const pid of pids) {
      using memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      processes += 1;
      for (const run of memory.runs()) {
        memoryPages += run.pages;
        // The gaps between picks of probability `share` are distributed like this; an even step might beat with the memory's own order.
        for (let index = gap(share) - 1; index < run.pages; index += gap(share)) {
          pages.push({ pid, address: run.address + index * PAGE_BYTES, hash: 0n, isChanged: false });
          if (pages.length < 2 * SAMPLE_PAGES) continue;
          pages = pages.filter(() => Math.random() < 0.5);
          share /= 2;
        }
        signal.throwIfAborted();
      }
      await setImmediate();
    }
    const sample = new MemorySample(processes, memoryPages, pages);
    await sample.#read(signal);
    return sample;
  }

  /** What has been written since the sample was taken, as of each look. */
  get dirty(): readonly DirtySample[] {
    return this.#dirty;
  }

  /** Looks at all sampled pages again. */
  async look(signal: AbortSignal): Promise<void> {
    const windowMs = performance.now() - this.#takenAtMs;
    await this.#eachPage(signal, (page, isRead) => {
      page.isChanged ||= !isRead || this.#hasher.hash(0) !== page.hash;
    });
    const changed = this.#pages.filter(({ isChanged }) => isChanged).length;
    const scale = this.#pages.length === 0 ? 0 : this.memoryPages / this.#pages.length;
    this.#dirty.push({ windowMs, pages: changed * scale });
  }

  async #read(signal: AbortSignal): Promise<void> {
    this.#takenAtMs = performance.now();
    const kept: Buffer[] = [];
    const every = Math.max(1, Math.floor(this.#pages.length / COMPRESSED_PAGES));
    let index = 0;
    await this.#eachPage(signal, (page, isRead) => {
      page.hash = isRead ? this.#hasher.hash(0) : 0n;
      if (index++ % every === 0 && isRead) kept.push(Buffer.from(this.#buffer));
    });
    if (kept.length === 0) return;
    const raw = Buffer.concat(kept);
    for (const form of COMPRESSED_FORMS) {
      this.compressedShare = Math.min(this.compressedShare, sizeIn(form, raw) / raw.length);
      await setImmediate();
    }
  }

  async #eachPage(signal: AbortSignal, see: (page: SampledPage, isRead: boolean) => void): Promise<void> {
    let memory: ProcessMemory | undefined;
    let pid = 0;
    try {
      for (const [index, page] of this.#pages.entries()) {
        if (page.pid !== pid) {
          memory?.[Symbol.dispose]();
          memory = ProcessMemory.open(page.pid);
          ({ pid } = page);
        }
        // A process that is gone, or has given its memory back, counts as having written it.
        see(page, memory?.readPages(this.#buffer, 0, page.address, 1) === 1);
        if (index % PAGES_PER_TURN === PAGES_PER_TURN - 1) {
          await setImmediate();
          signal.throwIfAborted();
        }
      }
    } finally {
      memory?.[Symbol.dispose]();
    }
  }
}

/** At least 1. */
const gap = (share: number): number =>
  share >= 1 ? 1 : 1 + Math.floor(Math.log(1 - Math.random()) / Math.log(1 - share));
