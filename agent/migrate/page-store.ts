import { closeSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { splitLazy } from "../checkpoint/lazy-list.ts";
import { joined, type Pages, pagesOf, rises } from "../checkpoint/page-runs.ts";
import { lazyRanges } from "../checkpoint/pagemap-image.ts";
import { ImageIndex, type LastIndex } from "../filler/image-index.ts";
import { writeLastIndex, writeRoundIndex } from "../filler/index-files.ts";
import { PageIndex, type RoundIndex } from "../filler/page-index.ts";
import type { HeldMemory } from "../keep/held-memory.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { linkParents, roundFolderOf, writeList, writeParentLists } from "./criu-lists.ts";
import { writeFollowingList, writeLazyList } from "./lazy-image.ts";
import { decodePageRun, type PageRun, PAGE_RUN_HEAD_BYTES, pagemapFileOf } from "./page-run.ts";
import { sortContent } from "./sort-content.ts";
import { Superseded } from "./superseded.ts";

/** An address space in the round that is coming. */
interface Space {
  readonly pagesId: number;
  /** As they came: the content lies in the file in this order. */
  readonly runs: Pages[];
  readonly gone: Pages[];
  /** Pages whose content comes when the container runs. */
  readonly following: Pages[];
  readonly descriptor: number;
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

/**
 * The target's side of the memory rounds: each brings content only, into a folder of its own, and is taken into the
 * image's index; what else was there before is known from that. The last one ends up in the image's own folder, and says
 * what is gone.
 */
export class PageStore implements Disposable {
  readonly #folder: string;
  readonly #held: HeldMemory | undefined;
  #round = 1;
  /** The last round has come. */
  #isComplete = false;
  #spaces = new Map<string, Space>();
  /** Of the rounds that have ended, but for the last. */
  readonly #image = new ImageIndex();
  readonly #ended: Map<string, RoundIndex>[] = [];
  /** Of these, those that the filler can read. */
  #written = 0;
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
        target = this.#space(space);
        const { address, pages } = run;
        if (run.kind === "gone") target.gone.push({ address, pages });
        else if (run.kind === "following") target.following.push({ address, pages });
        else target.runs.push({ address, pages });
        if (run.kind === "held") await this.#fetch(space, run, target);
      }
      this.#append(target, content);
    }
    if (target === undefined) throw new GodwitError("corrupt", "a run of pages that is cut short");
  }

  /** What the source has only referred to, as if its content had come. */
  async #fetch(space: string, { address, pages }: PageRun, target: Space): Promise<void> {
    if (this.#held === undefined)
      throw new GodwitError("corrupt", "a reference to pages, and this host holds none");
    for await (const content of this.#held.read({ space, first: address / PAGE_BYTES, pages }))
      this.#append(target, content);
  }

  /** Synchronous: to a tmpfs it is a copy of memory, and what comes next waits for it anyway. */
  #append({ descriptor }: Space, content: Uint8Array): void {
    this.contentBytes += content.byteLength;
    for (let written = 0; written < content.byteLength;) written += writeSync(descriptor, content, written);
  }

  #space(space: string): Space {
    if (this.#isComplete) throw new GodwitError("corrupt", "memory comes after the last round");
    const known = this.#spaces.get(space);
    if (known !== undefined) return known;
    const folder = this.#roundFolder();
    const pagesId = this.#nextPagesId;
    this.#nextPagesId += 1;
    const descriptor = openSync(`${folder}/pages-${pagesId}.img`, "wx", 0o600);
    const made = { pagesId, runs: [], gone: [], following: [], descriptor };
    this.#spaces.set(space, made);
    return made;
  }

  /** Of the round that is coming; made when it is needed first. */
  #roundFolder(): string {
    const folder = `${this.#folder}/${roundFolderOf(this.#round)}`;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    return folder;
  }

  /** The round is complete. Unless it is the last, later ones build upon it. */
  async endRound(isLast: boolean): Promise<void> {
    if (this.#isComplete) throw new GodwitError("corrupt", "a round comes after the last one");
    const folder = this.#roundFolder();
    for (const { descriptor } of this.#spaces.values()) closeSync(descriptor);
    this.#isComplete = isLast;
    if (isLast) return;
    const ended = new Map<string, RoundIndex>();
    for (const [space, { pagesId, runs: came }] of this.#spaces) {
      // Of a checkpoint, the last round of one that others build upon comes in the order in which CRIU has named its pages.
      const runs = rises(came) ? joined(came) : await sortContent(`${folder}/pages-${pagesId}.img`, came);
      const before = this.#image.spaces.get(space);
      if (before !== undefined && pagesOf(runs) > pagesOf(before.known) * WORTH_NOTING)
        this.#superseded.note(before.index, runs);
      const index = { folder: roundFolderOf(this.#round), pagesId, runs };
      this.#image.add(space, index);
      ended.set(space, index);
    }
    this.#ended.push(ended);
    this.#spaces = new Map();
    this.#round += 1;
    this.#superseded.giveBackAbove(this.#knownPages * PAGE_BYTES * SUPERSEDED_SHARE);
  }

  get #knownPages(): number {
    return this.#image.spaces.values().reduce((sum, { known }) => sum + pagesOf(known), 0);
  }

  /** For the filler, of all rounds that have ended. */
  writeIndexes(): void {
    for (; this.#written < this.#ended.length; this.#written += 1) {
      const ended = this.#ended[this.#written];
      if (ended !== undefined) writeRoundIndex(this.#folder, this.#written + 1, ended);
    }
  }

  /**
   * Makes the last round the image's own memory and answers how many pages that is. `lazy`: those that can be are left
   * to the filler. Needs the image's other files.
   */
  async finish(lazy: boolean): Promise<number> {
    if (!this.#isComplete) throw new GodwitError("corrupt", "the image came without its last memory");
    const folder = this.#roundFolder();
    const last = new Map<string, LastIndex>();
    let hasParent = false;
    let pages = 0;
    for (const [space, { pagesId, runs: came, gone, following }] of this.#spaces) {
      const file = `${folder}/pages-${pagesId}.img`;
      const runs = rises(came) ? joined(came) : await sortContent(file, came);
      renameSync(file, `${this.#folder}/pages-${pagesId}.img`);
      if (following.length > 0) {
        const image = { pagesId, content: runs, following };
        last.set(space, await writeFollowingList(this.#folder, space, this.#lazyRanges(space), image));
        pages += pagesOf(runs) + pagesOf(following);
        continue;
      }
      const index = { folder: ".", pagesId, runs, gone: joined(gone.filter((run) => run.pages > 0)) };
      last.set(space, index);
      const there = this.#image.end(space, index);
      pages += pagesOf(there);
      const ranges = lazy && space.startsWith("1-") ? this.#lazyRanges(space) : undefined;
      hasParent = this.#writeList(space, index, there, ranges) || hasParent;
    }
    if (lazy) {
      this.writeIndexes();
      writeLastIndex(this.#folder, last);
    }
    rmSync(folder, { recursive: true });
    if (hasParent) linkParents(this.#folder, this.#round - 1);
    return pages;
  }

  /** By which CRIU finds the pages of an address space. Answers whether it has to look into earlier rounds. */
  #writeList(
    space: string,
    last: RoundIndex,
    there: readonly Pages[],
    ranges: readonly AddressRange[] | undefined,
  ): boolean {
    const known = this.#image.spaces.get(space);
    const split = ranges === undefined ? undefined : splitLazy(there, ranges);
    if (split !== undefined && pagesOf(split.rest) <= MAX_COPIED_PAGES) {
      const pagesId = this.#nextPagesId;
      this.#nextPagesId += 1;
      writeLazyList(this.#folder, { space, pagesId }, split, known?.index ?? new PageIndex());
      return false;
    }
    writeList(this.#folder, space, last, there, ranges);
    const rounds = known?.rounds ?? [];
    if (rounds.length > 0) writeParentLists(this.#folder, space, rounds, this.#round - 1);
    return rounds.length > 0;
  }

  #lazyRanges(space: string): AddressRange[] {
    return lazyRanges(readFileSync(`${this.#folder}/mm-${space.slice(2)}.img`));
  }

  /** Some pages are only named. */
  get hasFollowing(): boolean {
    return this.#spaces.values().some(({ following }) => following.length > 0);
  }

  /** Processes whose memory the last round brought. */
  get processes(): number {
    return [...this.#spaces.keys()].filter((space) => space.startsWith("1-")).length;
  }

  [Symbol.dispose](): void {
    this.#superseded[Symbol.dispose]();
    if (!this.#isComplete) for (const { descriptor } of this.#spaces.values()) closeSync(descriptor);
    this.#spaces.clear();
  }
}
