import { closeSync, openSync } from "node:fs";

import { PAGE_BYTES, type PageIndex, type PageLocation } from "../filler/page-index.ts";
import { punchHole } from "../native/files.ts";
import type { Pages } from "../checkpoint/page-runs.ts";

/** Content of an image's earlier rounds that a later one has brought anew: nobody will read it. */
export class Superseded implements Disposable {
  readonly #folder: string;
  readonly #ranges: PageLocation[] = [];
  readonly #files = new Map<string, number>();
  #bytes = 0;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** @param index of one address space before this round; @param content that this round brings */
  note(index: PageIndex, content: readonly Pages[]): void {
    for (const { address, pages } of content) {
      for (let done = 0; done < pages;) {
        const place = index.locate(address + done * PAGE_BYTES, pages - done);
        done += place?.pages ?? 1; // or a page that was not there before
        if (place === undefined) continue;
        this.#ranges.push(place);
        this.#bytes += place.pages * PAGE_BYTES;
      }
    }
  }

  /** Gives it back to the host when there is more of it than so many bytes. */
  giveBackAbove(bytes: number): void {
    if (this.#bytes <= bytes) return;
    for (const { file, offset, pages } of this.#ranges) {
      let descriptor = this.#files.get(file);
      if (descriptor === undefined) {
        descriptor = openSync(`${this.#folder}/${file}`, "r+");
        this.#files.set(file, descriptor);
      }
      punchHole(descriptor, offset, pages * PAGE_BYTES);
    }
    this.#ranges.length = 0;
    this.#bytes = 0;
  }

  [Symbol.dispose](): void {
    for (const descriptor of this.#files.values()) closeSync(descriptor);
  }
}
