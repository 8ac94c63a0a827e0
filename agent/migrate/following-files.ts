import { closeSync, openSync, writeSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { readLastIndex } from "../filler/index-files.ts";
import { PAGE_BYTES, PageIndex } from "../filler/page-index.ts";

/** Where pages that follow are put when they come: files that the filler reads. */
export class FollowingFiles implements Disposable {
  readonly #folder: string;
  readonly #spaces = new Map<string, PageIndex>();
  readonly #files = new Map<string, number>();

  constructor(folder: string) {
    this.#folder = folder;
    for (const [space, last] of Object.entries(readLastIndex(folder))) {
      if (last.follows !== true) continue;
      const index = new PageIndex();
      index.add(last);
      this.#spaces.set(space, index);
    }
  }

  /** No page follows. */
  get isEmpty(): boolean {
    return this.#spaces.size === 0;
  }

  /** @throws GodwitError `corrupt` for a page that the image does not name */
  write(space: string, address: number, content: Uint8Array): void {
    const index = this.#spaces.get(space);
    for (let done = 0; done < content.byteLength;) {
      const place = index?.locate(address + done, (content.byteLength - done) / PAGE_BYTES);
      if (place === undefined)
        throw new GodwitError("corrupt", "a page has come that the image does not name");
      const end = done + place.pages * PAGE_BYTES;
      const descriptor = this.#descriptor(place.file);
      for (let at = done; at < end;)
        at += writeSync(descriptor, content, at, end - at, place.offset + (at - done));
      done = end;
    }
  }

  #descriptor(file: string): number {
    let descriptor = this.#files.get(file);
    if (descriptor === undefined) {
      descriptor = openSync(`${this.#folder}/${file}`, "r+");
      this.#files.set(file, descriptor);
    }
    return descriptor;
  }

  [Symbol.dispose](): void {
    for (const descriptor of this.#files.values()) closeSync(descriptor);
    this.#files.clear();
  }
}
