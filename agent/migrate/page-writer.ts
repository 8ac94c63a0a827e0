import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import type { Pages } from "../checkpoint/page-runs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { Recording } from "../keep/recording.ts";
import { encodePageRun, MAX_RUN_PAGES, type PageRun } from "./page-run.ts";

interface OpenRun {
  readonly space: string;
  readonly address: number;
  pages: number;
  readonly kind: "content" | "held";
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
  heldPages = 0;

  /** @param recording gets what the target gets, if given */
  constructor(sender: ImageSender, recording?: Recording) {
    this.#sender = sender;
    this.#recording = recording;
  }

  /** Takes note of one page that lies at `offset` of the buffer; `flush` before the buffer is used again. */
  add(space: string, address: number, kind: "content" | "held", offset: number): void {
    if (kind === "content") this.contentPages += 1;
    else this.heldPages += 1;
    const run = this.#open;
    if (
      run !== undefined &&
      run.kind === kind &&
      run.space === space &&
      run.address + run.pages * PAGE_BYTES === address &&
      run.pages < MAX_RUN_PAGES &&
      run.offset + run.pages * PAGE_BYTES === offset
    ) {
      run.pages += 1;
      return;
    }
    this.#open = { space, address, kind, offset, pages: 1 };
    this.#ready.push(this.#open);
  }

  /** Writes what was noted. @param buffer where its pages lie; it may be used again afterwards */
  async flush(buffer: Uint8Array): Promise<void> {
    this.#open = undefined;
    for (const run of this.#ready) {
      const bytes = buffer.subarray(run.offset, run.offset + run.pages * PAGE_BYTES);
      await this.#recording?.add(run.space, run.address, bytes);
      const isSent = run.kind === "content";
      await this.#writeHead(run.space, run, isSent ? bytes.byteLength : 0);
      if (isSent) await this.#sender.write(bytes);
    }
    // What one chunk asks for, the target may still be busy with when the container stands frozen: not more than this.
    if (this.#ready.some(({ kind }) => kind === "held")) await this.#sender.flush();
    this.#ready.length = 0;
  }

  /** Says that an address space exists, and which of its pages that were sent before are there no more. */
  async writeSpace(space: string, gone: readonly Pages[]): Promise<void> {
    await this.#writeHead(space, { address: 0, pages: 0, kind: "gone" }, 0);
    for (const { address, pages } of gone) await this.#writeHead(space, { address, pages, kind: "gone" }, 0);
  }

  /** Names pages whose content comes later. */
  async writeFollowing(space: string, following: readonly Pages[]): Promise<void> {
    for (const { address, pages } of following)
      await this.#writeHead(space, { address, pages, kind: "following" }, 0);
  }

  async #writeHead(space: string, run: PageRun, contentBytes: number): Promise<void> {
    const head = encodePageRun(run);
    const length = head.byteLength + contentBytes;
    const header = encodeRecordHeader({ kind: RecordKind.PAGES, length, name: space });
    await this.#sender.write(Buffer.concat([header, head]));
  }
}
