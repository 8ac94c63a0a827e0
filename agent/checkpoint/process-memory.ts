import { openSync, closeSync, readFileSync, readSync } from "node:fs";

import { PAGE_BYTES } from "../native/page-hash.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { readText } from "../native/proc.ts";
import { processStat } from "../native/process.ts";

/** Consecutive pages of one process that have content of their own. */
export interface MemoryRun {
  readonly address: number;
  readonly pages: number;
}

/** A private mapping; what the kernel itself provides (vDSO and the like) is left out. */
export interface Mapping {
  readonly start: number;
  readonly end: number;
  /** Of no file. */
  readonly anonymous: boolean;
  readonly executable: boolean;
}

const PRESENT = 0x80;
const SWAPPED = 0x40;
const FILE_OR_SHARED = 0x20;
const PAGEMAP_ENTRY_BYTES = 8;
const WINDOW_PAGES = 8192;
/** vm.mmap_min_addr, and where user space ends on x86_64. */
const LOWEST_ADDRESS = 0x1_0000;
const HIGHEST_ADDRESS = 0x7fff_ffff_f000;
const KERNEL_MAPPINGS = new Set(["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"]);

/**
 * A running process's private memory, read from outside through /proc. It changes while it is read: what is read
 * is a guess that a checkpoint corrects. A process that has ended reads as having none.
 */
export class ProcessMemory implements Disposable {
  readonly pid: number;
  /** As its own pid namespace numbers it, and so as CRIU names its images. */
  readonly innerPid: number;
  readonly startTicks: number;
  readonly #memory: number;
  readonly #pagemap: number;
  readonly #window = Buffer.alloc(WINDOW_PAGES * PAGEMAP_ENTRY_BYTES);

  private constructor(pid: number, innerPid: number, startTicks: number, memory: number, pagemap: number) {
    this.pid = pid;
    this.innerPid = innerPid;
    this.startTicks = startTicks;
    this.#memory = memory;
    this.#pagemap = pagemap;
  }

  /** Undefined when the process is gone, or is a thread's or kernel's without memory. */
  static open(pid: number): ProcessMemory | undefined {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const innerPid = Number(/^NSpid:.*?(\d+)$/m.exec(status)?.[1]);
      const stat = processStat(pid);
      if (stat === undefined) return undefined;
      const memory = openSync(`/proc/${pid}/mem`, "r");
      try {
        const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
        return new ProcessMemory(pid, innerPid, stat.startTicks, memory, pagemap);
      } catch (error) {
        closeSync(memory);
        throw error;
      }
    } catch {
      return undefined;
    }
  }

  /** Resident memory of its own, with what it shares with those that it was forked from and has not written to. */
  get privateBytes(): number {
    const [, resident = 0, shared = 0] = readText(`/proc/${this.pid}/statm`).split(" ").map(Number);
    return (resident - shared) * PAGE_BYTES;
  }

  /** An open /proc/PID/pagemap. */
  get pagemap(): number {
    return this.#pagemap;
  }

  /** Runs of pages that a checkpoint would carry: present or swapped out, and not a file's. */
  *runs(): Generator<MemoryRun> {
    for (const { start, end } of this.mappings()) {
      let address = start;
      let from = -1;
      while (address < end) {
        const wanted = Math.min(WINDOW_PAGES, (end - address) / PAGE_BYTES);
        const bytes = this.#read(
          this.#pagemap,
          this.#window,
          0,
          (address / PAGE_BYTES) * PAGEMAP_ENTRY_BYTES,
          wanted * PAGEMAP_ENTRY_BYTES,
        );
        const pages = Math.floor(bytes / PAGEMAP_ENTRY_BYTES);
        if (pages === 0) break;
        for (let index = 0; index < pages; index += 1) {
          const top = this.#window[index * PAGEMAP_ENTRY_BYTES + 7] ?? 0;
          const own = (top & (PRESENT | SWAPPED)) !== 0 && (top & FILE_OR_SHARED) === 0;
          const at = address + index * PAGE_BYTES;
          if (own && from < 0) from = at;
          if (!own && from >= 0) {
            yield { address: from, pages: (at - from) / PAGE_BYTES };
            from = -1;
          }
        }
        address += pages * PAGE_BYTES;
      }
      if (from >= 0) yield { address: from, pages: (address - from) / PAGE_BYTES };
    }
  }

  /**
   * Reads into the buffer from `offset` on. Answers whole pages: fewer than asked for when the memory has gone away
   * in between.
   */
  readPages(buffer: Buffer, offset: number, address: number, pages: number): number {
    return Math.floor(this.#read(this.#memory, buffer, offset, address, pages * PAGE_BYTES) / PAGE_BYTES);
  }

  #read(descriptor: number, buffer: Buffer, offset: number, position: number, bytes: number): number {
    try {
      return readSync(descriptor, buffer, offset, bytes, position);
    } catch {
      return 0; // unmapped or ended meanwhile
    }
  }

  /** By rising address. */
  mappings(): Mapping[] {
    return this.#layout().filter(({ own }) => own);
  }

  /**
   * The address space without the mappings that are not `meant`: by rising address, with the gaps between and around
   * those that are. What the process maps, grows or moves from now on is likely to be in one of them as a whole.
   */
  stretches(meant: (mapping: Mapping) => boolean): AddressRange[] {
    const stretches: AddressRange[] = [];
    let start = LOWEST_ADDRESS;
    let isWanted = false;
    const close = (end: number): void => {
      if (isWanted && end > start) stretches.push({ start, end });
      isWanted = false;
    };
    for (const mapping of this.#layout()) {
      if (mapping.own && meant(mapping)) isWanted = true;
      else {
        close(mapping.start);
        start = mapping.end;
      }
    }
    close(HIGHEST_ADDRESS);
    return stretches;
  }

  #layout(): (Mapping & { readonly own: boolean })[] {
    let maps: string;
    try {
      maps = readFileSync(`/proc/${this.pid}/maps`, "latin1");
    } catch {
      return [];
    }
    const layout: (Mapping & { readonly own: boolean })[] = [];
    for (const line of maps.split("\n")) {
      const match = /^([0-9a-f]+)-([0-9a-f]+) ..(.)([ps]) \S+ \S+ (\d+) *(.*)$/.exec(line);
      if (match === null) continue;
      const start = parseInt(match[1] ?? "", 16);
      const end = parseInt(match[2] ?? "", 16);
      if (end > HIGHEST_ADDRESS) continue;
      const own = match[4] === "p" && !KERNEL_MAPPINGS.has(match[6] ?? "");
      layout.push({ start, end, anonymous: match[5] === "0", executable: match[3] === "x", own });
    }
    return layout;
  }

  [Symbol.dispose](): void {
    closeSync(this.#memory);
    closeSync(this.#pagemap);
  }
}
