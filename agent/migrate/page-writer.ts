import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { Recording } from "../keep/recording.ts";
import { encodePageRun, MAX_RUN_PAGES, type PageKind } from "./page-run.ts";

interface OpenRun {
  readonly space: string;
  readonly address: number;
  pages: number;
  readonly kind: PageKind;
  /** Of the first page, in the buffer. */
  readonly offset: number;
}

/** Joins consecutive pages of one buffer into runs and writes them into the image stream. */
export class PageWriter {
  readonly #sender: ImageSender;
  readonly #recording: Recording | undefined;
  readonly #ready: OpenRun[] = [];
  #open: OpenRun | undefined;
  contentPages = 0;
  parentPages = 0;
  heldPages = 0;

  /** @param recording gets what the target gets, if given */
  constructor(sender: ImageSender, recording?: Recording) {
    this.#sender = sender;
    this.#recording = recording;
  }

  /** Takes note of one page that lies at `offset` of the buffer; `flush` before the buffer is used again. */
  add(space: string, address: number, kind: PageKind, offset: number): void {
    if (kind === "content") this.contentPages += 1;
    else if (kind === "held") this.heldPages += 1;
    else this.parentPages += 1;
    const run = this.#open;
    if (
      run !== undefined &&
      run.kind === kind &&
      run.space === space &&
      run.address + run.pages * PAGE_BYTES === address &&
      (kind === "parent" || (run.pages < MAX_RUN_PAGES && run.offset + run.pages * PAGE_BYTES === offset))
    ) {
      run.pages += 1;
      return;
    }
    if (run !== undefined) this.#ready.push(run);
    this.#open = { space, address, kind, offset, pages: 1 };
  }

  /** Takes note of pages that the target has from an earlier round. */
  addParents(space: string, address: number, pages: number): void {
    this.parentPages += pages;
    const run = this.#open;
    if (
      run !== undefined &&
      run.kind === "parent" &&
      run.space === space &&
      run.address + run.pages * PAGE_BYTES === address
    ) {
      run.pages += pages;
      return;
    }
    if (run !== undefined) this.#ready.push(run);
    this.#open = { space, address, kind: "parent", offset: 0, pages };
  }

  /** Says that an address space exists, even if no page of it will come. */
  open(space: string): void {
    if (this.#open !== undefined) this.#ready.push(this.#open);
    this.#open = undefined;
    this.#ready.push({ space, address: 0, kind: "parent", offset: 0, pages: 0 });
  }

  /** Writes what was noted. @param buffer where its pages lie; it may be used again afterwards */
  async flush(buffer: Uint8Array): Promise<void> {
    if (this.#open !== undefined) this.#ready.push(this.#open);
    this.#open = undefined;
    for (const run of this.#ready) {
      if (run.kind !== "parent") {
        const bytes = buffer.subarray(run.offset, run.offset + run.pages * PAGE_BYTES);
        await this.#recording?.add(run.space, run.address, bytes);
      }
      const content = run.kind === "content" ? run.pages * PAGE_BYTES : 0;
      const head = encodePageRun(run);
      const length = head.byteLength + content;
      const header = encodeRecordHeader({ kind: RecordKind.PAGES, length, name: run.space });
      await this.#sender.write(Buffer.concat([header, head]));
      if (content > 0) await this.#sender.write(buffer.subarray(run.offset, run.offset + content));
    }
    // What one chunk asks for, the target may still be busy with when the container stands frozen: not more than this.
    if (this.#ready.some(({ kind }) => kind === "held")) await this.#sender.flush();
    this.#ready.length = 0;
  }
}
