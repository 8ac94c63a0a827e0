import { closeSync, fstatSync, openSync, readSync } from "node:fs";

import { punchHole } from "../native/files.ts";
import type { FileRange } from "./image-pages.ts";

/** The files with an image's pages. What nobody needs of them any more goes back to the host at once. */
export class ImageFiles implements Disposable {
  readonly #files = new Map<string, number>();
  #givesBack = false;
  #keptBytes = 0;
  #kept: FileRange[] = [];

  /** All at once: the folder may be taken away while its files are still needed. */
  constructor(folder: string, names: Iterable<string>) {
    for (const name of names)
      if (!this.#files.has(name)) this.#files.set(name, openSync(`${folder}/${name}`, "r+"));
  }

  read({ file, offset, bytes }: FileRange, buffer: Buffer, at: number): void {
    const descriptor = this.#descriptor(file);
    for (let filled = 0; filled < bytes;) {
      const read = readSync(descriptor, buffer, at + filled, bytes - filled, offset + filled);
      if (read === 0) throw new Error(`${file} is too short`);
      filled += read;
    }
  }

  /** Keeps them before `beginGivingBack`: until then the image may have to be restored once more. */
  giveBack(ranges: Iterable<FileRange>): void {
    for (const { file, offset, bytes } of ranges) {
      if (this.#givesBack) punchHole(this.#descriptor(file), offset, bytes);
      else {
        this.#keptBytes += bytes;
        this.#kept.push({ file, offset, bytes });
      }
    }
  }

  /** Whether more than this is kept that nobody wants any more. */
  isHoardingAbove(bytes: number): boolean {
    return !this.#givesBack && this.#keptBytes > bytes;
  }

  get givesBack(): boolean {
    return this.#givesBack;
  }

  /**
   * The container runs: what is settled goes back from now on, and with each step a piece of what was kept, and then of
   * what nobody ever wanted. All in one step would keep the container's first questions waiting.
   * @param wanted where the pages lie that there were to be put in place at first, those of one file by rising offset
   */
  *giveBackAllBut(wanted: Iterable<FileRange>): Generator<void, void, undefined> {
    this.#givesBack = true;
    for (const { file, offset, bytes } of this.#kept.splice(0)) {
      punchHole(this.#descriptor(file), offset, bytes);
      yield;
    }
    const ends = new Map<string, number>();
    for (const { file, offset, bytes } of wanted) {
      const end = ends.get(file) ?? 0;
      ends.set(file, offset + bytes);
      if (offset === end) continue;
      punchHole(this.#descriptor(file), end, offset - end);
      yield;
    }
    for (const [file, descriptor] of this.#files) {
      const end = ends.get(file) ?? 0;
      punchHole(descriptor, end, fstatSync(descriptor).size - end);
      yield;
    }
  }

  #descriptor(file: string): number {
    const descriptor = this.#files.get(file);
    if (descriptor === undefined) throw new Error(`${file} is no file of the image`);
    return descriptor;
  }

  [Symbol.dispose](): void {
    for (const descriptor of this.#files.values()) closeSync(descriptor);
    this.#files.clear();
  }
}
