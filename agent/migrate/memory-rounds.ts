import { GodwitError } from "../../proto/contract/error.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import {
  PAGE_SERVER_ADD_F,
  PAGE_SERVER_CLOSE,
  PAGE_SERVER_FORCE_CLOSE,
  PAGE_SERVER_OPEN2,
  type PageServerHeader,
} from "../checkpoint/page-server.ts";
import { ProcessMemory } from "../checkpoint/process-memory.ts";
import { PAGE_BYTES, PageHasher } from "../native/page-hash.ts";
import { addressOf, receiveInto, sendPacket } from "../native/sockets.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import { PageLedger } from "./page-ledger.ts";
import { PageWriter } from "./page-writer.ts";

const BUFFER_BYTES = 4 * 1024 * 1024;
const BUFFER_PAGES = BUFFER_BYTES / PAGE_BYTES;
const TASK_SPACE = 1;

export interface RoundFigures {
  /** Pages that were looked at, and of them those whose content was sent. */
  readonly pages: number;
  readonly changedPages: number;
  readonly tookMs: number;
}

/**
 * Sends a container's memory in rounds: each sends the pages whose hash is not the one of the round before. The
 * last round's pages come from CRIU, which dumps the frozen container into a socket instead of files.
 */
export class MemoryRounds {
  readonly #sender: ImageSender;
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  readonly #address = addressOf(this.#buffer);
  readonly #hasher = new PageHasher(this.#buffer);
  /** What the target has, as of the last complete round. */
  #ledger = new PageLedger();
  rounds = 0;

  constructor(sender: ImageSender) {
    this.#sender = sender;
  }

  /** One round while the container runs. */
  async copyRunning(pids: Iterable<number>, signal: AbortSignal): Promise<RoundFigures> {
    const startedAt = performance.now();
    const next = new PageLedger();
    const writer = new PageWriter(this.#sender, this.#buffer);
    for (const pid of pids) {
      using memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      const space = `${TASK_SPACE}-${memory.innerPid}`;
      for (const run of memory.runs()) {
        for (let done = 0; done < run.pages;) {
          signal.throwIfAborted();
          const address = run.address + done * PAGE_BYTES;
          const read = memory.readPages(this.#buffer, address, Math.min(BUFFER_PAGES, run.pages - done));
          const pages = Math.floor(read / PAGE_BYTES);
          if (pages === 0) break;
          this.#compare(space, address, pages, 0, next, writer);
          await writer.flush();
          // Hashing keeps the event loop busy; NATS and the reports need their turn.
          await new Promise((resolve) => setImmediate(resolve));
          done += pages;
        }
      }
    }
    await this.#endRound(next);
    return {
      pages: next.pages,
      changedPages: writer.contentPages,
      tookMs: performance.now() - startedAt,
    };
  }

  /** Serves CRIU's page-server protocol on `descriptor` until CRIU closes it: the last round. */
  async serveDump(descriptor: number, header: PageServerHeader): Promise<RoundFigures> {
    const startedAt = performance.now();
    const next = new PageLedger();
    const writer = new PageWriter(this.#sender, this.#buffer);
    let filled = 0;
    let run: { space: string; address: number; left: number } | undefined;
    let finished = false;
    while (!finished) {
      const received = await receiveInto(descriptor, this.#address + filled, BUFFER_BYTES - filled);
      if (received === 0) throw new GodwitError("internal", "CRIU closed its page socket in the middle");
      filled += received;
      let at = 0;
      for (;;) {
        if (run !== undefined) {
          const pages = Math.min(run.left, Math.floor((filled - at) / PAGE_BYTES));
          if (pages === 0) break;
          this.#compare(run.space, run.address, pages, at, next, writer);
          at += pages * PAGE_BYTES;
          run =
            run.left === pages
              ? undefined
              : { ...run, address: run.address + pages * PAGE_BYTES, left: run.left - pages };
          continue;
        }
        if (filled - at < header.bytes) break;
        const command = header.decode(
          new DataView(this.#buffer.buffer, this.#buffer.byteOffset + at, header.bytes),
        );
        at += header.bytes;
        if (command.operation === PAGE_SERVER_OPEN2) {
          writer.open(command.space);
          sendPacket(descriptor, new Uint8Array(1)); // it has no parent of CRIU's making
        } else if (command.operation === PAGE_SERVER_ADD_F) {
          if (!command.hasContent) throw new GodwitError("internal", "CRIU sent pages without content");
          run = { space: command.space, address: command.address, left: command.pages };
        } else if (command.operation === PAGE_SERVER_CLOSE || command.operation === PAGE_SERVER_FORCE_CLOSE) {
          finished = true;
          break;
        } else
          throw new GodwitError("internal", `CRIU's page server command ${command.operation} is unknown`);
      }
      await writer.flush();
      this.#buffer.copyWithin(0, at, filled);
      filled -= at;
      if (finished) sendPacket(descriptor, new Uint8Array(4));
    }
    await this.#endRound(next);
    return {
      pages: writer.contentPages + writer.parentPages,
      changedPages: writer.contentPages,
      tookMs: performance.now() - startedAt,
    };
  }

  #compare(
    space: string,
    address: number,
    pages: number,
    offset: number,
    next: PageLedger,
    writer: PageWriter,
  ): void {
    const first = address / PAGE_BYTES;
    for (let index = 0; index < pages; index += 1) {
      const at = offset + index * PAGE_BYTES;
      const hash = this.#hasher.hash(at);
      const known = this.#ledger.get(space, first + index) === hash;
      next.set(space, first + index, hash);
      writer.add(space, address + index * PAGE_BYTES, known ? "parent" : "content", at);
    }
  }

  async #endRound(next: PageLedger): Promise<void> {
    await this.#sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));
    this.#ledger = next;
    this.rounds += 1;
  }
}
