import { mkdir, open, readFile, rename, rm, symlink, writeFile, type FileHandle } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import {
  encodePagemap,
  lazyRanges,
  markLazy,
  PageFlag,
  type PagemapRun,
} from "../checkpoint/pagemap-image.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { RoundIndex } from "../page-server/page-index.ts";
import { decodePageRun, PAGE_RUN_HEAD_BYTES, pagemapFileOf } from "./page-run.ts";

interface Space {
  readonly pagesId: number;
  readonly runs: PagemapRun[];
  readonly file: FileHandle;
}

/**
 * The target's side of the memory rounds: each round becomes a folder of CRIU image files whose `parent` is the round
 * before, so that CRIU itself finds a page that did not change where it was first written. The last round ends up in
 * the image's own folder.
 */
export class PageStore implements AsyncDisposable {
  readonly #folder: string;
  #round = 1;
  #spaces = new Map<string, Space>();
  /** Of the round that ended last. */
  #last = new Map<string, Space>();
  /** By address space, the last round first: what the page server is given. */
  readonly #indexes = new Map<string, RoundIndex[]>();
  /** Numbers of pages files are the image's own: no two the same. */
  #nextPagesId = 1;
  contentBytes = 0;

  /** @param folder the image's, on a tmpfs */
  constructor(folder: string) {
    this.#folder = folder;
  }

  #roundFolder(round: number): string {
    return `${this.#folder}/round-${round}`;
  }

  /** One PAGES record. */
  async add(space: string, body: AsyncIterable<Uint8Array>, length: number): Promise<void> {
    const name = pagemapFileOf(space);
    if (name === undefined) throw new GodwitError("corrupt", `'${space}' is no address space`);
    let head: Buffer = Buffer.alloc(0);
    let target: Space | undefined;
    for await (const piece of body) {
      let content = piece;
      if (target === undefined) {
        const missing = PAGE_RUN_HEAD_BYTES - head.byteLength;
        head = Buffer.concat([head, piece.subarray(0, missing)]);
        content = piece.subarray(missing);
        if (head.byteLength < PAGE_RUN_HEAD_BYTES) continue;
        const run = decodePageRun(head, length - PAGE_RUN_HEAD_BYTES);
        if (run === undefined) throw new GodwitError("corrupt", "a run of pages that makes no sense");
        if (run.kind === "parent" && run.pages > 0 && this.#round === 1) {
          throw new GodwitError("corrupt", "pages that are said to be here and are not");
        }
        target = await this.#space(space);
        const flags = run.kind === "content" ? PageFlag.present : PageFlag.parent;
        if (run.pages > 0) target.runs.push({ address: run.address, pages: run.pages, flags });
      }
      this.contentBytes += content.byteLength;
      for (let written = 0; written < content.byteLength;) {
        written += (await target.file.write(content, written)).bytesWritten;
      }
    }
    if (target === undefined) throw new GodwitError("corrupt", "a run of pages that is cut short");
  }

  async #space(space: string): Promise<Space> {
    const known = this.#spaces.get(space);
    if (known !== undefined) return known;
    const folder = this.#roundFolder(this.#round);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const pagesId = this.#nextPagesId;
    this.#nextPagesId += 1;
    const made = { pagesId, runs: [], file: await open(`${folder}/pages-${pagesId}.img`, "wx", 0o600) };
    this.#spaces.set(space, made);
    return made;
  }

  /** The round is complete: its index is written, the next one builds upon it. */
  async endRound(): Promise<void> {
    const folder = this.#roundFolder(this.#round);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    if (this.#round > 1) await symlink(`../round-${this.#round - 1}`, `${folder}/parent`);
    for (const [space, { pagesId, runs, file }] of this.#spaces) {
      await file.close();
      await writeFile(`${folder}/${pagemapFileOf(space) ?? ""}`, encodePagemap(pagesId, runs), {
        mode: 0o600,
      });
    }
    // The round before is now a parent for good, and is where its pages will be looked for.
    for (const [space, { pagesId, runs }] of this.#last)
      this.#index(space, pagesId, runs, `round-${this.#round - 1}`);
    this.#last = this.#spaces;
    this.#spaces = new Map();
    this.#round += 1;
  }

  /**
   * Makes the last round the image's own memory. `lazy`: pages that can be are marked as to be filled on demand.
   * Needs the image's other files.
   */
  async finish(lazy: boolean): Promise<void> {
    const round = this.#round - 1;
    if (round < 1) return;
    const folder = this.#roundFolder(round);
    for (const [space, { pagesId, runs }] of this.#last) {
      const name = pagemapFileOf(space) ?? "";
      const mm =
        space.startsWith("1-") && lazy
          ? await readFile(`${this.#folder}/mm-${space.slice(2)}.img`)
          : undefined;
      const marked = mm === undefined ? runs : markLazy(runs, lazyRanges(mm), PAGE_BYTES);
      await writeFile(`${this.#folder}/${name}`, encodePagemap(pagesId, marked), { mode: 0o600 });
      this.#index(space, pagesId, runs, ".");
      await rename(`${folder}/pages-${pagesId}.img`, `${this.#folder}/pages-${pagesId}.img`);
    }
    if (lazy) {
      const file = `${this.#folder}/page-index.json`;
      await writeFile(file, JSON.stringify(Object.fromEntries(this.#indexes)), { mode: 0o600 });
    }
    if (round > 1) await symlink(`round-${round - 1}`, `${this.#folder}/parent`);
    await rm(folder, { recursive: true });
  }

  #index(space: string, pagesId: number, runs: readonly PagemapRun[], folder: string): void {
    const index: RoundIndex = {
      file: `${folder}/pages-${pagesId}.img`,
      runs: runs.map(({ address, pages, flags }) => ({
        address,
        pages,
        hasContent: (flags & PageFlag.present) !== 0,
      })),
    };
    this.#indexes.set(space, [index, ...(this.#indexes.get(space) ?? [])]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { file } of this.#spaces.values()) await file.close();
    this.#spaces.clear();
  }
}
