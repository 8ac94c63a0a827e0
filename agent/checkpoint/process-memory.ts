import { openSync, closeSync, readFileSync, readSync } from "node:fs";

import { PAGE_BYTES } from "../native/page-hash.ts";

/** Consecutive pages of one process that have content of their own. */
export interface MemoryRun {
  readonly address: number;
  readonly pages: number;
}

const PRESENT = 0x80;
const SWAPPED = 0x40;
const FILE_OR_SHARED = 0x20;
const PAGEMAP_ENTRY_BYTES = 8;
const WINDOW_PAGES = 8192;

/**
 * A running process's private memory, read from outside through /proc. It changes while it is read: what is read
 * is a guess that a checkpoint corrects. A process that has ended reads as having none.
 */
export class ProcessMemory implements Disposable {
  readonly pid: number;
  /** As its own pid namespace numbers it, and so as CRIU names its images. */
  readonly innerPid: number;
  readonly #memory: number;
  readonly #pagemap: number;
  readonly #window = Buffer.alloc(WINDOW_PAGES * PAGEMAP_ENTRY_BYTES);

  private constructor(pid: number, innerPid: number, memory: number, pagemap: number) {
    this.pid = pid;
    this.innerPid = innerPid;
    this.#memory = memory;
    this.#pagemap = pagemap;
  }

  /** Undefined when the process is gone, or is a thread's or kernel's without memory. */
  static open(pid: number): ProcessMemory | undefined {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const innerPid = Number(/^NSpid:.*?(\d+)$/m.exec(status)?.[1]);
      const memory = openSync(`/proc/${pid}/mem`, "r");
      try {
        return new ProcessMemory(pid, innerPid, memory, openSync(`/proc/${pid}/pagemap`, "r"));
      } catch (error) {
        closeSync(memory);
        throw error;
      }
    } catch {
      return undefined;
    }
  }

  /** Runs of pages that a checkpoint would carry: present or swapped out, and not a file's. */
  *runs(): Generator<MemoryRun> {
    for (const { start, end } of this.#privateMappings()) {
      let address = start;
      let from = -1;
      while (address < end) {
        const wanted = Math.min(WINDOW_PAGES, (end - address) / PAGE_BYTES);
        const bytes = this.#read(
          this.#pagemap,
          this.#window,
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

  /** Bytes read: fewer than asked for when the memory has gone away in between. */
  readPages(buffer: Buffer, address: number, pages: number): number {
    return this.#read(this.#memory, buffer, address, pages * PAGE_BYTES);
  }

  #read(descriptor: number, buffer: Buffer, position: number, bytes: number): number {
    try {
      return readSync(descriptor, buffer, 0, bytes, position);
    } catch {
      return 0; // unmapped or ended meanwhile
    }
  }

  *#privateMappings(): Generator<{ start: number; end: number }> {
    let maps: string;
    try {
      maps = readFileSync(`/proc/${this.pid}/maps`, "latin1");
    } catch {
      return;
    }
    for (const line of maps.split("\n")) {
      const match = /^([0-9a-f]+)-([0-9a-f]+) ..(.)p \S+ \S+ \S+ *(.*)$/.exec(line);
      if (match === null || match[4] === "[vvar]" || match[4] === "[vdso]" || match[4] === "[vsyscall]")
        continue;
      const start = parseInt(match[1] ?? "", 16);
      const end = parseInt(match[2] ?? "", 16);
      if (end < Number.MAX_SAFE_INTEGER) yield { start, end };
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#memory);
    closeSync(this.#pagemap);
  }
}
