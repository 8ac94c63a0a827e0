/**
 * Fills the memory of a restored container from its image, on demand and in the background, while the container runs:
 * `filler/main.ts IMAGES_DIR`. A process of its own, so that a container does not depend on the agent. It is CRIU's
 * counterpart at the socket LAZY_SOCKET in that folder, where CRIU's tasks hand over the descriptors of their missing
 * memory, and ends when everything is in place.
 *
 * Descriptor 3 leads to the agent: "ready" goes out when CRIU may come, as the four bytes of the holder's pid; a
 * byte comes when a round has ended (ROUND_ENDED), and one when the image is whole. An agent that is gone before that
 * needs nothing any more.
 *
 * In a post-copy the image is whole when it says which pages there are: their content follows (see page-words.ts).
 */
import { readFileSync, readSync, rmSync, statSync, writeSync } from "node:fs";

import { type Pages, pagesOf } from "../checkpoint/page-runs.ts";
import { lazyRanges } from "../checkpoint/pagemap-image.ts";
import { RESUMED_FILE } from "../checkpoint/resumption.ts";
import { splitByRanges } from "../checkpoint/split-ranges.ts";
import { holdDescriptors } from "../native/descriptor-holder.ts";
import type { Placing } from "../native/fault-descriptor.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { acceptFrom, listenAt, receiveWithDescriptor, waitForAny } from "../native/unix-listener.ts";
import { AddressSpace } from "./address-space.ts";
import { ImageFiles } from "./image-files.ts";
import { ImagePages } from "./image-pages.ts";
import { IndexReader, readLastIndex, ROUND_ENDED } from "./index-files.ts";
import { likelyFirst } from "./likely-first.ts";
import { PAGE_BYTES, PageIndex, pagesFileOf } from "./page-index.ts";
import { PageLine } from "./page-line.ts";
import { PAGES_SOCKET } from "./page-words.ts";

/** CRIU's name (criu/uffd.c). */
const LAZY_SOCKET = "lazy-pages.socket";
/** As checkpoint/lazy-pages.ts calls it. */
const UNFINISHED = "filling";
const AGENT = 3;
/** What CRIU says after the last process: "RSTF". */
const RESTORE_FINISHED = 0x5253_5446;

/** Before something that was not possible is tried again. */
const PAUSE_MS = 1;
/** So much of an image may be in place twice before CRIU has let go of the container: only faults are answered then. */
const HOARD_SHARE = 0.05;
/** So long after an answer the next question is waited for: a container that begins to run asks for one page after another. */
const QUIET_MS = 1;
/** Without memory to put a page into: the host, or the container's own limit, has none to give. */
const FULL_PATIENCE_MS = 60_000;

class Filler {
  readonly #folder: string;
  readonly #listener: number;
  readonly #pagesListener: number;
  #criu: number | undefined;
  /** Nothing more will come from CRIU: the container is about to run. */
  #isRestored = false;
  #files: ImageFiles | undefined;
  readonly #index: IndexReader;
  #rehearsedPages = 0;
  /** Of each process what it is filled with, and where it will probably reach first. */
  readonly #prepared = new Map<
    number,
    { readonly pages: ImagePages; readonly likely: readonly AddressRange[] }
  >();
  /** Of processes whose pages follow. */
  readonly #following = new Map<number, ImagePages>();
  #line: PageLine | undefined;
  readonly #images: ImagePages[] = [];
  #imagePages = 0;
  /** Whose turn it is comes first. */
  #spaces: AddressSpace[] = [];
  #fullSinceMs: number | undefined;
  #answeredAtMs = 0;
  /** What goes back to the host, piece by piece: somebody may ask in between. */
  #givingBack: Iterator<void> | undefined;

  constructor(folder: string, listener: number, pagesListener: number) {
    this.#folder = folder;
    this.#listener = listener;
    this.#pagesListener = pagesListener;
    this.#index = new IndexReader(folder);
  }

  /** A round has ended, and the container still runs elsewhere. */
  takeRounds(): void {
    this.#index.readRounds();
    const { spaces } = this.#index.image;
    const pages = spaces.values().reduce((sum, { known }) => sum + pagesOf(known), 0);
    // As much again is worth it; when the last round comes, none may be under way.
    if (pages < 2 * this.#rehearsedPages) return;
    this.#rehearsedPages = pages;
    for (const { index, known } of spaces.values()) rehearse(index, known);
  }

  /** The image is whole. */
  open(): void {
    this.#index.readRounds();
    const { image } = this.#index;
    const last = readLastIndex(this.#folder);
    const rounds = image.spaces.values().flatMap((space) => space.rounds);
    this.#files = new ImageFiles(this.#folder, [...Object.values(last), ...rounds].map(pagesFileOf));
    for (const [space, index] of Object.entries(last)) {
      const there = image.end(space, index);
      const pid = processOf(space);
      if (pid === undefined) continue;
      const follows = index.follows === true;
      const known = image.spaces.get(space);
      const pages = this.#imageOf(pid, {
        index: known?.index ?? new PageIndex(),
        there,
        follows,
      });
      this.#prepared.set(pid, { pages, likely: likelyFirst([...(known?.rounds ?? []), index]) });
      if (follows) this.#following.set(pid, pages);
    }
    if (this.#following.size > 0)
      this.#line = new PageLine(this.#pagesListener, this.#following, this.#files);
  }

  /** Until all is in place. @throws when that will never be */
  run(): void {
    let timeoutMs = -1;
    for (;;) {
      // Their descriptors' numbers are others' by and by.
      this.#spaces = this.#spaces.filter(({ hasEnded }) => !hasEnded);
      if (this.#isRestored && this.#spaces.length === 0) return;
      const watched = this.#spaces.map(({ descriptor }) => descriptor.number);
      const line = this.#line?.watched ?? [];
      const ready = waitForAny([...this.#restorers(), ...line, ...watched], timeoutMs);
      this.#line?.hear(ready);
      if (ready.has(this.#listener)) this.#criu = acceptFrom(this.#listener);
      else if (this.#criu !== undefined && ready.has(this.#criu)) this.#hear(this.#criu);
      for (const space of [...this.#spaces])
        if (ready.has(space.descriptor.number)) this.#spaces.push(...space.look());
      for (const space of this.#spaces) if (space.isAwaited) this.#answer(space);
      timeoutMs = this.#isRestored ? this.#goOn() : this.#anticipate();
    }
  }

  #restorers(): number[] {
    return this.#isRestored ? [] : [this.#criu ?? this.#listener];
  }

  #hear(connection: number): void {
    const word = Buffer.alloc(4);
    const { bytes } = receiveWithDescriptor(connection, word);
    if (bytes === 0) throw new Error("CRIU has ended before the restore has");
    const pid = word.readInt32LE();
    if (pid === RESTORE_FINISHED) this.#isRestored = true;
    if (pid === RESTORE_FINISHED || pid <= 0) return; // or a process that has ended and has no memory
    const { descriptor } = receiveWithDescriptor(connection, Buffer.alloc(1));
    if (descriptor === undefined) throw new Error(`CRIU sent no descriptor for process ${pid}`);
    if (this.#files === undefined) throw new Error("CRIU restores before the image is whole");
    const { pages: image, likely } = this.#prepared.get(pid) ?? {
      pages: new ImagePages(new PageIndex(), []),
      likely: [],
    };
    this.#images.push(image);
    this.#imagePages += image.pages;
    this.#spaces.push(AddressSpace.restored(descriptor, image, this.#files, likely));
  }

  #imageOf(
    pid: number,
    {
      follows,
      index,
      there,
    }: { readonly index: PageIndex; readonly there: readonly Pages[]; readonly follows: boolean },
  ): ImagePages {
    const ranges = lazyRanges(readFileSync(`${this.#folder}/mm-${pid}.img`));
    return new ImagePages(index, lazyPages(there, ranges), follows);
  }

  #answer(space: AddressSpace): void {
    const isAnswerable = space.isAnswerable;
    this.#note(space, space.answer());
    if (isAnswerable) this.#answeredAtMs = performance.now();
    this.#ask(space);
  }

  #ask(space: AddressSpace): void {
    for (const [pid, image] of this.#following)
      if (image === space.image) this.#line?.ask(pid, space.wanted());
  }

  /** What is done while nobody waits. Answers how long there is nothing to be done. */
  #goOn(): number {
    if (performance.now() - this.#answeredAtMs < QUIET_MS) return QUIET_MS;
    this.#giveBackIfRunning();
    const isOver = this.#givingBack?.next().done;
    if (isOver === true) this.#givingBack = undefined;
    const waitMs = this.#fillOne();
    return this.#givingBack === undefined ? waitMs : 0;
  }

  /** What is done while the container is being restored. Answers how long there is nothing to be done. */
  #anticipate(): number {
    const isAnticipating = (space: AddressSpace): boolean => space.isAnticipating;
    if (this.#isHoarding()) return patienceMs(this.#isAnyAnswerable());
    return (
      this.#turn(isAnticipating) ?? patienceMs(this.#isAnyAnswerable() || this.#spaces.some(isAnticipating))
    );
  }

  #isAnyAnswerable(): boolean {
    return this.#spaces.some(({ isAnswerable }) => isAnswerable);
  }

  /** What has a place. Answers how long there is nothing to be done. */
  #fillOne(): number {
    if (this.#isHoarding()) return PAUSE_MS;
    return (
      this.#turn((space) => space.isDone || !space.isStarved) ??
      patienceMs(this.#isAnyAnswerable() || this.#spaces.some(({ isStarved }) => !isStarved))
    );
  }

  #isHoarding(): boolean {
    // Nobody restores once more from an image whose pages follow.
    return (
      this.#line === undefined &&
      this.#files?.isHoardingAbove(this.#imagePages * PAGE_BYTES * HOARD_SHARE) === true
    );
  }

  /** One block for one process, so that no thread waits long. Answers undefined if there was none to be had. */
  #turn(isMeant: (space: AddressSpace) => boolean): 0 | undefined {
    const nowMs = performance.now();
    const at = this.#spaces.findIndex(
      (space) => isMeant(space) && (space.isDone || space.restsUntilMs <= nowMs),
    );
    const space = this.#spaces[at];
    if (space === undefined) return undefined;
    if (!space.isDone) this.#note(space, this.#place(space));
    // With all of its memory in place it is the kernel's alone again; while CRIU holds it, its events are to be read.
    if (space.isDone && this.#isRestored) space[Symbol.dispose]();
    this.#spaces.push(...this.#spaces.splice(at, 1));
    return 0;
  }

  #place(space: AddressSpace): Placing {
    if (!space.isAnticipating) return space.fill();
    const outcome = space.anticipate();
    if (outcome === "nowhere" && this.#isRestored) space.anticipateNoMore();
    return outcome;
  }

  #note(space: AddressSpace, outcome: Placing): void {
    if (outcome === "full") {
      this.#fullSinceMs ??= performance.now();
      if (performance.now() - this.#fullSinceMs > FULL_PATIENCE_MS)
        throw new Error("there is no memory for the container's pages");
    } else if (outcome === "done") this.#fullSinceMs = undefined;
    if (outcome === "ended") space[Symbol.dispose]();
    else if (outcome !== "done") space.restsUntilMs = performance.now() + PAUSE_MS;
  }

  /** When CRIU has let go of the last task, nobody will restore from this image again. */
  #giveBackIfRunning(): void {
    if (this.#files === undefined || this.#files.givesBack) return;
    if (statSync(`${this.#folder}/${RESUMED_FILE}`, { throwIfNoEntry: false }) === undefined) return;
    this.#givingBack = this.#files.giveBackAllBut(this.#images.values().flatMap((image) => image.places()));
  }
}

/** The process whose memory an address space is ("<type>-<id>" as in migrate/page-run.ts); others are shared memory. */
const processOf = (space: string): number | undefined =>
  space.startsWith("1-") ? Number(space.slice(2)) : undefined;

const EVERYWHERE = [{ start: 0, end: Number.MAX_SAFE_INTEGER }];

/**
 * Does once for nothing, with what has come so far, what will have to be done while a container stands still: code that
 * runs for the first time takes several times as long.
 */
function rehearse(index: PageIndex, known: readonly Pages[]): void {
  const pages = new ImagePages(index, lazyPages(known, EVERYWHERE));
  for (const _ of pages.settle(pages.missing));
}

/** What of these, which rise, lies in mappings that are filled later. */
function lazyPages(runs: readonly Pages[], ranges: readonly AddressRange[]): Pages[] {
  const lazy: Pages[] = [];
  let at = 0;
  for (const run of runs) {
    const end = run.address + run.pages * PAGE_BYTES;
    while ((ranges[at]?.end ?? Infinity) <= run.address) at += 1;
    const { start: from, end: to } = ranges[at] ?? { start: Infinity, end: Infinity };
    if (from >= end) continue;
    if (from <= run.address && end <= to) lazy.push(run);
    else
      for (const { address, pages, inside } of splitByRanges(run, ranges))
        if (inside) lazy.push({ address, pages });
  }
  return lazy;
}

/** Answers, once there is one, whether there is an image to fill from; the agent may give the move up before. */
function isWanted(holder: number, filler: Filler): boolean {
  const word = Buffer.alloc(4);
  word.writeInt32LE(holder);
  try {
    writeSync(AGENT, word);
    for (;;) {
      if (readSync(AGENT, word, 0, 1, null) === 0) return false;
      if (word[0] !== ROUND_ENDED) return true;
      filler.takeRounds();
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EPIPE" || code === "ECONNRESET") return false;
    throw error;
  }
}

/** Without anything to be done soon, it waits until something comes. */
const patienceMs = (isSoon: boolean): number => (isSoon ? PAUSE_MS : -1);

/** The whole path may be longer than a socket's can be. */
function listenIn(folder: string, name: string): number {
  process.chdir(folder);
  try {
    return listenAt(name);
  } finally {
    process.chdir("/");
  }
}

const [folder = "."] = process.argv.slice(2);
// A descriptor that only the filler held would close with it, and what is missing would read as zeros.
const holder = holdDescriptors();
let isNeeded = false;
try {
  const listener = listenIn(folder, LAZY_SOCKET);
  const pagesListener = listenIn(folder, PAGES_SOCKET);
  const filler = new Filler(folder, listener, pagesListener);
  isNeeded = isWanted(holder, filler);
  if (isNeeded) {
    filler.open();
    filler.run();
    rmSync(`${folder}/${UNFINISHED}`, { force: true });
  }
  isNeeded = false;
} catch (error) {
  process.stderr.write(`godwit filler: ${String(error)}\n`);
  process.exitCode = 1;
} finally {
  // Else it stays: whoever waits for a page waits on, until the agent has ended the container.
  if (!isNeeded) process.kill(holder, "SIGKILL");
}
