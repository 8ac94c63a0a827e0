import { mkdir, open, readFile, rename, rm, symlink, writeFile, type FileHandle } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import {
  encodePagemap,
  lazyRanges,
  markLazy,
  PageFlag,
  type PagemapRun,
} from "../checkpoint/pagemap-image.ts";
import type { HeldMemory } from "../keep/held-memory.ts";
import { REHEARSAL_FILE, type RoundIndex } from "../filler/page-index.ts";
import { splitLazy } from "../checkpoint/lazy-list.ts";
import { joined, type Pages, rises, union, without } from "../checkpoint/page-runs.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { Superseded } from "./superseded.ts";
import { decodePageRun, type PageRun, PAGE_RUN_HEAD_BYTES, pagemapFileOf } from "./page-run.ts";
import { writeFollowingList, writeIndex, writeLazyList } from "./lazy-image.ts";
import { sortContent } from "./sort-content.ts";

interface Space {
  readonly pagesId: number;
  /** As they came: the content lies in the file in this order. */
  readonly runs: PagemapRun[];
  readonly gone: Pages[];
  /** Pages whose content comes when the container runs. */
  readonly following: Pages[];
  readonly file: FileHandle;
}

/**
 * Of the memory that an image holds, what later rounds have brought anew may be this much before it is given back: that
 * takes time, which the last rounds, of a container that stands still, should not need.
 */
const SUPERSEDED_SHARE = 0.1;
/** What CRIU restores itself is copied up to this many pages, a matter of milliseconds; more is left where it is. */
const MAX_COPIED_PAGES = 2048;
/** A round that brings a smaller share of a process's memory anew is not looked at. */
const WORTH_NOTING = 0.03;

/** So many runs of a process teach the filler what all of them would. */
const REHEARSED_RUNS = 4096;

const pagesOf = (runs: readonly Pages[]): number => runs.reduce((sum, { pages }) => sum + pages, 0);

/**
 * The target's side of the memory rounds: each round becomes a folder of CRIU image files whose `parent` is the round
 * before, so that CRIU itself finds a page that did not change where it was first written. A round brings content
 * only; what else was there before is added to its list here, but for what the last round says is gone. That one ends up
 * in the image's own folder.
 */
export class PageStore implements AsyncDisposable {
  readonly #folder: string;
  readonly #held: HeldMemory | undefined;
  #round = 1;
  /** The last round has come. */
  #isComplete = false;
  #spaces = new Map<string, Space>();
  /** Of the round that ended last, and of all before it: the pages that there are by address space. */
  #last = new Map<string, Space>();
  readonly #known = new Map<string, Pages[]>();
  /** By address space, the last round first: what the filler is given. */
  readonly #indexes = new Map<string, RoundIndex[]>();
  readonly #superseded: Superseded;
  /** What has come, in all rounds. */
  contentBytes = 0;
  /** Numbers of pages files are the image's own: no two the same. */
  #nextPagesId = 1;

  /**
   * @param folder the image's, on a tmpfs
   * @param held what the source may refer to
   */
  constructor(folder: string, held?: HeldMemory) {
    this.#folder = folder;
    this.#held = held;
    this.#superseded = new Superseded(folder);
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
        target = await this.#space(this.#round, this.#spaces, space);
        const { address, pages } = run;
        if (run.kind === "gone") target.gone.push({ address, pages });
        else if (run.kind === "following") target.following.push({ address, pages });
        else target.runs.push({ address, pages, flags: PageFlag.present });
        if (run.kind === "held") await this.#fetch(space, run, target);
      }
      await this.#append(target, content);
    }
    if (target === undefined) throw new GodwitError("corrupt", "a run of pages that is cut short");
  }

  /** What the source has only referred to, as if its content had come. */
  async #fetch(space: string, { address, pages }: PageRun, target: Space): Promise<void> {
    if (this.#held === undefined)
      throw new GodwitError("corrupt", "a reference to pages, and this host holds none");
    for await (const content of this.#held.read({ space, first: address / PAGE_BYTES, pages }))
      await this.#append(target, content);
  }

  async #append({ file }: Space, content: Uint8Array): Promise<void> {
    this.contentBytes += content.byteLength;
    for (let written = 0; written < content.byteLength;)
      written += (await file.write(content, written)).bytesWritten;
  }

  async #space(round: number, spaces: Map<string, Space>, space: string): Promise<Space> {
    const known = spaces.get(space);
    if (known !== undefined) return known;
    const folder = this.#roundFolder(round);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const pagesId = this.#nextPagesId;
    this.#nextPagesId += 1;
    const made = {
      pagesId,
      runs: [],
      gone: [],
      following: [],
      file: await open(`${folder}/pages-${pagesId}.img`, "wx", 0o600),
    };
    spaces.set(space, made);
    return made;
  }

  /** The round is complete. Unless it is the last it is a parent from now on. */
  async endRound(isLast: boolean): Promise<void> {
    for (const { file } of this.#spaces.values()) await file.close();
    await mkdir(this.#roundFolder(this.#round), { recursive: true, mode: 0o700 });
    this.#last = this.#spaces;
    this.#spaces = new Map();
    this.#round += 1;
    this.#isComplete = isLast;
    if (!isLast) await this.#makeParent();
    const pages = pagesOf([...this.#known.values()].flat());
    this.#superseded.giveBackAbove(pages * PAGE_BYTES * SUPERSEDED_SHARE);
  }

  /** Completes the list of the round that ended last: a child looks up there every page that it does not bring. */
  async #makeParent(): Promise<void> {
    const round = this.#round - 1;
    const folder = this.#roundFolder(round);
    for (const space of this.#known.keys()) {
      if (this.#last.has(space)) continue;
      await (await this.#space(round, this.#last, space)).file.close();
    }
    if (round > 1) await symlink(`../round-${round - 1}`, `${folder}/parent`);
    for (const [space, { pagesId, runs }] of this.#last) {
      // Of a checkpoint, the last round of one that others build upon comes in the order in which CRIU has named its pages.
      const content = rises(runs) ? runs : await sortContent(`${folder}/pages-${pagesId}.img`, runs);
      if (pagesOf(content) > pagesOf(this.#known.get(space) ?? []) * WORTH_NOTING)
        this.#superseded.note(this.#indexes.get(space) ?? [], content);
      const inherited = this.#inherited(space, content);
      const complete = [...content, ...inherited].sort((a, b) => a.address - b.address);
      const name = pagemapFileOf(space) ?? "";
      await writeFile(`${folder}/${name}`, encodePagemap(pagesId, complete), { mode: 0o600 });
      this.#index(space, pagesId, complete, `round-${round}`);
      this.#known.set(space, union(this.#known.get(space) ?? [], content));
    }
  }

  /** For the filler, of the round that is coming. */
  writeRehearsal(): void {
    const folder = `round-${this.#round}`;
    const indexes = [...this.#spaces].map(([space, { pagesId, runs }]): [string, RoundIndex[]] => [
      space,
      [indexOf(pagesId, runs.slice(0, REHEARSED_RUNS), folder)],
    ]);
    writeIndex(this.#folder, new Map(indexes), REHEARSAL_FILE);
  }

  /**
   * Makes the last round the image's own memory and answers how many pages that is. `lazy`: those that can be are left
   * to the filler. Needs the image's other files.
   */
  async finish(lazy: boolean): Promise<number> {
    if (!this.#isComplete) throw new GodwitError("corrupt", "the image came without its last memory");
    const round = this.#round - 1;
    const folder = this.#roundFolder(round);
    let hasParent = false;
    let pages = 0;
    for (const [space, { pagesId, runs: came, gone, following }] of this.#last) {
      const content = rises(came) ? came : await sortContent(`${folder}/pages-${pagesId}.img`, came);
      if (following.length > 0) {
        await rename(`${folder}/pages-${pagesId}.img`, `${this.#folder}/pages-${pagesId}.img`);
        pages += await this.#leaveOut(space, { pagesId, content, following });
        continue;
      }
      const runs = [...content, ...this.#inherited(space, [...content, ...gone])].sort(
        (a, b) => a.address - b.address,
      );
      pages += pagesOf(runs);
      this.#index(space, pagesId, runs, ".");
      await rename(`${folder}/pages-${pagesId}.img`, `${this.#folder}/pages-${pagesId}.img`);
      const list = `${this.#folder}/${pagemapFileOf(space) ?? ""}`;
      const ranges = lazy && space.startsWith("1-") ? await this.#lazyRanges(space) : undefined;
      const split = ranges === undefined ? undefined : splitLazy(runs, ranges);
      if (split !== undefined && pagesOf(split.rest) <= MAX_COPIED_PAGES) {
        const pagesId = this.#nextPagesId;
        this.#nextPagesId += 1;
        writeLazyList(this.#folder, { space, pagesId }, split, this.#indexes.get(space) ?? []);
      } else {
        await writeFile(list, encodePagemap(pagesId, markLazy(runs, ranges ?? [])), { mode: 0o600 });
        hasParent ||= round > 1;
      }
    }
    if (lazy) writeIndex(this.#folder, this.#indexes);
    if (hasParent) await symlink(`round-${round - 1}`, `${this.#folder}/parent`);
    await rm(folder, { recursive: true });
    return pages;
  }

  /** Pages that follow are the filler's; all others have come. Answers how many pages there are. */
  async #leaveOut(
    space: string,
    image: {
      readonly pagesId: number;
      readonly content: readonly PagemapRun[];
      readonly following: readonly Pages[];
    },
  ): Promise<number> {
    const index = await writeFollowingList(this.#folder, space, await this.#lazyRanges(space), image);
    this.#indexes.set(space, [index]);
    return pagesOf(image.content) + pagesOf(image.following);
  }

  async #lazyRanges(space: string): Promise<AddressRange[]> {
    return lazyRanges(await readFile(`${this.#folder}/mm-${space.slice(2)}.img`));
  }

  /** What earlier rounds brought, but for some. */
  #inherited(space: string, but: readonly Pages[]): PagemapRun[] {
    const rest = without(this.#known.get(space) ?? [], joined(but));
    return rest.map((run) => ({ ...run, flags: PageFlag.parent }));
  }

  #index(space: string, pagesId: number, runs: readonly PagemapRun[], folder: string): void {
    const index = indexOf(pagesId, runs, folder);
    this.#indexes.set(space, [index, ...(this.#indexes.get(space) ?? [])]);
  }

  /** Some pages are only named. */
  get hasFollowing(): boolean {
    return [...this.#last.values()].some(({ following }) => following.length > 0);
  }

  /** Processes whose memory the last round brought. */
  get processes(): number {
    return [...this.#last.keys()].filter((space) => space.startsWith("1-")).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#superseded[Symbol.dispose]();
    for (const { file } of this.#spaces.values()) await file.close();
    this.#spaces.clear();
  }
}

const indexOf = (pagesId: number, runs: readonly PagemapRun[], folder: string): RoundIndex => ({
  file: `${folder}/pages-${pagesId}.img`,
  runs: runs.map(({ address, pages, flags }) => ({
    address,
    pages,
    hasContent: (flags & PageFlag.present) !== 0,
  })),
});
