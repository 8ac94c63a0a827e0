import { closeSync, readSync, writeSync } from "node:fs";

import { acceptFrom } from "../native/unix-listener.ts";
import type { ImageFiles } from "./image-files.ts";
import type { ImagePages } from "./image-pages.ts";
import { encodePageWords, type PageWord, PageWordReader } from "./page-words.ts";

const piece = Buffer.allocUnsafe(64 * 1024);
/** Said at once. */
const WORDS = 4096;

/**
 * The filler's line to the agent, over which it hears of pages that have come, and asks for those that somebody waits
 * for. An agent that starts anew calls anew: it is told what is lacking then.
 */
export class PageLine {
  readonly #listener: number;
  readonly #images: ReadonlyMap<number, ImagePages>;
  readonly #files: ImageFiles;
  readonly #asked = new Set<string>();
  #agent: number | undefined;
  #reader = new PageWordReader();

  constructor(listener: number, images: ReadonlyMap<number, ImagePages>, files: ImageFiles) {
    this.#listener = listener;
    this.#images = images;
    this.#files = files;
  }

  /** Descriptors on which something may come. */
  get watched(): readonly number[] {
    return this.#agent === undefined ? [this.#listener] : [this.#listener, this.#agent];
  }

  /** Takes in what has come. */
  hear(ready: ReadonlySet<number>): void {
    if (this.#agent !== undefined && ready.has(this.#agent)) this.#read(this.#agent);
    if (!ready.has(this.#listener)) return;
    this.#hangUp();
    this.#agent = acceptFrom(this.#listener);
    this.#reader = new PageWordReader();
    this.#asked.clear();
    const lacking = [...this.#images].flatMap(([pid, image]) =>
      Array.from(image.absent(), (run) => ({ pid, ...run })),
    );
    this.#say([...lacking, { pid: 0, address: 0, pages: 0 }]);
  }

  /** Each once. */
  ask(pid: number, wanted: Iterable<{ readonly address: number; readonly pages: number }>): void {
    if (this.#agent === undefined) return;
    const words: PageWord[] = [];
    for (const { address, pages } of wanted) {
      const key = `${pid} ${address}`;
      if (this.#asked.has(key)) continue;
      this.#asked.add(key);
      words.push({ pid, address, pages });
    }
    if (words.length > 0) this.#say(words);
  }

  #read(agent: number): void {
    let bytes = 0;
    try {
      bytes = readSync(agent, piece);
    } catch {
      // It is gone: the next one calls.
    }
    if (bytes === 0) {
      this.#hangUp();
      return;
    }
    for (const { pid, address, pages } of this.#reader.read(piece.subarray(0, bytes))) {
      const image = this.#images.get(pid);
      if (image === undefined) throw new Error(`pages have come of a process ${pid} that the image has not`);
      this.#files.giveBack(image.arrive(address, pages));
    }
  }

  #say(words: readonly PageWord[]): void {
    if (this.#agent === undefined) return;
    try {
      for (let first = 0; first < words.length; first += WORDS) {
        const bytes = encodePageWords(words.slice(first, first + WORDS));
        for (let written = 0; written < bytes.byteLength;) written += writeSync(this.#agent, bytes, written);
      }
    } catch {
      this.#hangUp();
    }
  }

  #hangUp(): void {
    if (this.#agent !== undefined) closeSync(this.#agent);
    this.#agent = undefined;
  }
}
