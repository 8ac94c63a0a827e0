import { closeSync } from "node:fs";

import { addressOf } from "../native/sockets.ts";
import { FaultDescriptor, type Placing } from "../native/fault-descriptor.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import type { ImageFiles } from "./image-files.ts";
import type { ImagePages } from "./image-pages.ts";
import { PAGE_BYTES } from "./page-index.ts";
import { PendingPages, type PendingRange } from "./pending-pages.ts";

/** What is put in place at once while nobody waits for it: below a millisecond's work, which a fault waits at most. */
const BLOCK_PAGES = 256;
/** With a page that somebody waits for come those around it. */
const AROUND_BYTES = 16 * PAGE_BYTES;
/** Times that all that is missing is looked at and is in no mapping, before it is taken for lost. */
const FRUITLESS_LOOKS = 50;

const content = Buffer.allocUnsafeSlow(BLOCK_PAGES * PAGE_BYTES);
const contentAddress = addressOf(content);

/**
 * One process's memory that is being filled: the pages that it lacks, and those for which some of its threads wait. A
 * process that is forked from it has its own, which begins with what its parent lacked at that moment.
 */
export class AddressSpace implements Disposable {
  readonly descriptor: FaultDescriptor;
  /** On the clock of performance.now(): nothing can be put in place before. */
  restsUntilMs = 0;
  /** What it is filled from. */
  readonly image: ImagePages;
  readonly #files: ImageFiles;
  readonly #pending: PendingPages;
  readonly #isForked: boolean;
  /** Where it will probably reach for its memory first. */
  #likely: readonly AddressRange[];
  #waiting = new Set<number>();
  /** Where filling goes on. */
  #cursor = 0;
  /** Whether anything was put in place, or has happened, since filling last began at the lowest address. */
  #isFruitful = true;
  #fruitlessLooks = 0;
  #hasEnded = false;
  /** Of the image, when it was last found that nothing that is missing has come. */
  #starvedAt = -1;

  private constructor(
    descriptor: number,
    image: ImagePages,
    files: ImageFiles,
    pending: PendingPages,
    { isForked, likely }: { readonly isForked: boolean; readonly likely: readonly AddressRange[] },
  ) {
    this.descriptor = new FaultDescriptor(descriptor);
    this.image = image;
    this.#files = files;
    this.#pending = pending;
    this.#isForked = isForked;
    this.#likely = likely;
  }

  /**
   * A process that is being restored.
   * @param likely where it will probably reach for its memory first
   */
  static restored(
    descriptor: number,
    image: ImagePages,
    files: ImageFiles,
    likely: readonly AddressRange[],
  ): AddressSpace {
    const pending = new PendingPages(image.missing);
    return new AddressSpace(descriptor, image, files, pending, { isForked: false, likely });
  }

  /** It has all of its memory, or is gone. */
  get isDone(): boolean {
    return this.#hasEnded || (this.#pending.isEmpty && this.#waiting.size === 0);
  }

  /** Its descriptor is closed. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  get isAwaited(): boolean {
    return this.#waiting.size > 0;
  }

  /** All that is missing is still to come. */
  get isStarved(): boolean {
    return this.#starvedAt === this.image.arrivals && !this.isDone;
  }

  /** Of those who wait, whether any waits for what is here. */
  get isAnswerable(): boolean {
    return [...this.#waiting].some((address) => {
      const page = this.#pageOf(address);
      return page === undefined || this.image.isPresent(page);
    });
  }

  /** What somebody waits for and has not come, with what is around it: by addresses in the image. */
  *wanted(): Generator<{ readonly address: number; readonly pages: number }> {
    for (const address of this.#waiting) {
      const page = this.#pageOf(address);
      const range = this.#pending.find(address);
      if (page === undefined || range === undefined || this.image.isPresent(page)) continue;
      const { start, end } = around(address, range);
      const first = range.page + (start - range.start) / PAGE_BYTES;
      yield { address: this.image.addressOf(first), pages: (end - start) / PAGE_BYTES };
    }
  }

  #pageOf(address: number): number | undefined {
    const range = this.#pending.find(address);
    return range === undefined ? undefined : range.page + (address - range.start) / PAGE_BYTES;
  }

  /** Takes in what has happened. Answers the processes that were forked meanwhile. */
  look(): AddressSpace[] {
    const children: AddressSpace[] = [];
    for (const event of this.descriptor.read()) {
      switch (event.kind) {
        case "fault":
          // To be answered when all events before it are known: the kernel tells faults first.
          this.#waiting.add(event.address);
          break;
        case "removed":
          this.#settle(this.#pending.take(event.start, event.end));
          break;
        case "moved":
          this.#settle(this.#pending.move(event.from, event.to, event.bytes));
          break;
        case "fork": {
          const pending = this.#pending.clone();
          this.image.need(pending.ranges);
          children.push(
            new AddressSpace(event.descriptor, this.image, this.#files, pending, {
              isForked: true,
              likely: [],
            }),
          );
          break;
        }
      }
      this.#isFruitful = true;
    }
    return children;
  }

  /** Answers those who wait; what cannot be answered now stays. */
  answer(): Placing {
    let worst: Placing = "done";
    for (const address of this.#waiting) {
      const range = this.#pending.find(address);
      if (range !== undefined && !this.image.isPresent(this.#pageOf(address) ?? 0)) continue;
      const outcome = range === undefined ? this.#zero(address) : this.#placeAround(address, range);
      if (outcome === "ended") return outcome;
      if (outcome === "changing" || outcome === "full") worst = outcome;
      else this.#waiting.delete(address);
    }
    return worst;
  }

  /** There is more that it will probably reach for first. */
  get isAnticipating(): boolean {
    return this.#likely.length > 0 && !this.isDone;
  }

  /** Puts some of what it will probably reach for first in place. "nowhere": its mappings are not ready for it. */
  anticipate(): Placing {
    const [likely, ...others] = this.#likely;
    if (likely === undefined) return "done";
    const range = this.#pending.next(likely.start, BLOCK_PAGES, this.image.present);
    if (range !== undefined && range.start >= likely.start && range.start < likely.end)
      return this.#place({ ...range, end: Math.min(range.end, likely.end) }).outcome;
    this.#likely = others;
    return "done";
  }

  /** What is missing comes in the order of its addresses from now on. */
  anticipateNoMore(): void {
    this.#likely = [];
  }

  /**
   * Puts some of what is missing in place. "nowhere": all that is missing was looked at since this was answered last,
   * and was in no mapping. Events tell of all that goes away, so it is about to appear.
   * @throws when it does not
   */
  fill(): Placing {
    const range = this.#pending.next(this.#cursor, BLOCK_PAGES, this.image.present);
    if (range === undefined) {
      this.#starvedAt = this.image.arrivals;
      return "done";
    }
    if (range.start < this.#cursor) {
      this.#cursor = 0;
      this.#fruitlessLooks = this.#isFruitful ? 0 : this.#fruitlessLooks + 1;
      if (this.#fruitlessLooks > 0) return this.#giveUpIfLost();
      this.#isFruitful = false;
    }
    const { outcome, end } = this.#place(range);
    if (end > range.start) this.#isFruitful = true;
    this.#cursor = outcome === "nowhere" ? end + PAGE_BYTES : end;
    return outcome === "nowhere" ? "done" : outcome;
  }

  #giveUpIfLost(): Placing {
    if (this.#fruitlessLooks < FRUITLESS_LOOKS) return "nowhere";
    // What a process has said that its children are not to have (MADV_DONTFORK) is missing in them for good.
    if (!this.#isForked) throw new Error("a process has no place for pages that it lacks");
    return "ended";
  }

  #placeAround(address: number, range: PendingRange): Placing {
    const { start, end } = this.#presentAround(address, around(address, range), range);
    const page = range.page + (start - range.start) / PAGE_BYTES;
    const { outcome } = this.#place({ start, end, page });
    if (outcome === "done") this.#cursor = end;
    if (outcome !== "nowhere" || this.#pending.find(address) === undefined) return outcome;
    // The neighbours may be in another mapping; if not even this one is in any, nobody can be waiting for it.
    const { outcome: single } = this.#place({
      start: address,
      end: address + PAGE_BYTES,
      page: range.page + (address - range.start) / PAGE_BYTES,
    });
    if (single === "nowhere") this.descriptor.wake(address, PAGE_BYTES);
    return single;
  }

  /** Of the addresses, those side by side with this one whose content is here. */
  #presentAround(
    address: number,
    { start, end }: { readonly start: number; readonly end: number },
    range: PendingRange,
  ): { readonly start: number; readonly end: number } {
    const isPresent = (at: number): boolean =>
      this.image.isPresent(range.page + (at - range.start) / PAGE_BYTES);
    let [first, last] = [address, address + PAGE_BYTES];
    while (first > start && isPresent(first - PAGE_BYTES)) first -= PAGE_BYTES;
    while (last < end && isPresent(last)) last += PAGE_BYTES;
    return { start: first, end: last };
  }

  /** Puts a part of what is missing in place, which must fit the buffer; answers how far it came, too. */
  #place({ start, end, page }: PendingRange): { outcome: Placing; end: number } {
    let read = 0;
    for (const part of this.image.locate(page, (end - start) / PAGE_BYTES)) {
      this.#files.read(part, content, read);
      read += part.bytes;
    }
    let most = end - start;
    for (let at = start; at < end;) {
      const wanted = Math.min(most, end - at);
      const { outcome, bytes } = this.descriptor.copy(at, contentAddress + (at - start), wanted);
      this.#settle(this.#pending.take(at, at + bytes));
      at += bytes;
      if (outcome === "done" || bytes > 0) continue;
      if (outcome === "exists") {
        this.#settle(this.#pending.take(at, at + PAGE_BYTES));
        this.descriptor.wake(at, PAGE_BYTES);
        at += PAGE_BYTES;
      } else if (outcome === "nowhere" && wanted > PAGE_BYTES) {
        // It may begin in one mapping and end in another: of what is left, less at a time.
        most = Math.max(PAGE_BYTES, Math.floor(wanted / PAGE_BYTES / 2) * PAGE_BYTES);
      } else return { outcome, end: at };
    }
    return { outcome: "done", end };
  }

  /** A page that the image has not: it was never written, or was given up. */
  #zero(address: number): Placing {
    const { outcome } = this.descriptor.zero(address, PAGE_BYTES);
    // Whoever waits for what is there already, or for what is nowhere, is to look again.
    if (outcome === "exists" || outcome === "nowhere") this.descriptor.wake(address, PAGE_BYTES);
    return outcome;
  }

  #settle(ranges: readonly PendingRange[]): void {
    this.#files.giveBack(this.image.settle(ranges));
  }

  /** Nothing is wanted for it any more. */
  [Symbol.dispose](): void {
    if (!this.#hasEnded) closeSync(this.descriptor.number);
    this.#hasEnded = true;
    this.#waiting.clear();
    this.#settle(this.#pending.take(0, Infinity));
  }
}

/** With a page that somebody waits for, those of the range that are around it. */
function around(address: number, range: PendingRange): { readonly start: number; readonly end: number } {
  const from = address - (address % AROUND_BYTES);
  return { start: Math.max(range.start, from), end: Math.min(range.end, from + AROUND_BYTES) };
}
