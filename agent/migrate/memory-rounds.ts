import { GodwitError } from "../../proto/contract/error.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { type PageSegment, type PageServerHeader, PageStreamParser } from "../checkpoint/page-server.ts";
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

/** A buffer whose pages can be hashed where they lie. */
class PageBuffer {
  readonly bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  readonly address = addressOf(this.bytes);
  readonly hasher = new PageHasher(this.bytes);
}

/**
 * Sends a container's memory in rounds: each sends the pages whose hash is not the one of the round before. The
 * last round's pages come from CRIU, which dumps the frozen container into a socket instead of files.
 */
export class MemoryRounds {
  readonly #sender: ImageSender;
  readonly #buffers = [new PageBuffer(), new PageBuffer()] as const;
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
    const [buffer] = this.#buffers;
    const writer = new PageWriter(this.#sender);
    for (const pid of pids) {
      using memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      const space = `${TASK_SPACE}-${memory.innerPid}`;
      for (const run of memory.runs()) {
        for (let done = 0; done < run.pages;) {
          signal.throwIfAborted();
          const address = run.address + done * PAGE_BYTES;
          const read = memory.readPages(buffer.bytes, address, Math.min(BUFFER_PAGES, run.pages - done));
          const pages = Math.floor(read / PAGE_BYTES);
          if (pages === 0) break;
          this.#compare(buffer, { space, address, pages, offset: 0 }, next, writer);
          await writer.flush(buffer.bytes);
          // Hashing keeps the event loop busy; NATS and the reports need their turn.
          await new Promise((resolve) => setImmediate(resolve));
          done += pages;
        }
      }
    }
    return await this.#endRound(next, writer, startedAt);
  }

  /**
   * Serves CRIU's page-server protocol on `descriptor` until CRIU closes it: the last round. One buffer is filled
   * while the pages of the other are hashed.
   */
  async serveDump(descriptor: number, header: PageServerHeader): Promise<RoundFigures> {
    const startedAt = performance.now();
    const next = new PageLedger();
    const writer = new PageWriter(this.#sender);
    const parser = new PageStreamParser(header, PAGE_BYTES);
    let [filling, hashing] = this.#buffers;
    let filled = await receive(descriptor, filling, 0);
    for (;;) {
      [filling, hashing] = [hashing, filling];
      const { opened, segments, consumed, finished } = parser.parse(hashing.bytes, filled);
      // CRIU waits for these; that it has no parent of CRIU's own making is what the byte says.
      for (const space of opened) {
        writer.open(space);
        sendPacket(descriptor, new Uint8Array(1));
      }
      const rest = filled - consumed;
      hashing.bytes.copy(filling.bytes, 0, consumed, filled);
      const more = finished ? undefined : receive(descriptor, filling, rest);
      more?.catch(() => undefined); // awaited below, unless something else fails first
      for (const segment of segments) this.#compare(hashing, segment, next, writer);
      await writer.flush(hashing.bytes);
      if (more === undefined) break;
      filled = await more;
    }
    sendPacket(descriptor, new Uint8Array(4));
    return await this.#endRound(next, writer, startedAt);
  }

  #compare(buffer: PageBuffer, segment: PageSegment, next: PageLedger, writer: PageWriter): void {
    const { space, address, pages, offset } = segment;
    const first = address / PAGE_BYTES;
    for (let index = 0; index < pages; index += 1) {
      const at = offset + index * PAGE_BYTES;
      const hash = buffer.hasher.hash(at);
      const known = this.#ledger.get(space, first + index) === hash;
      next.set(space, first + index, hash);
      writer.add(space, address + index * PAGE_BYTES, known ? "parent" : "content", at);
    }
  }

  async #endRound(next: PageLedger, writer: PageWriter, startedAt: number): Promise<RoundFigures> {
    await this.#sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));
    this.#ledger = next;
    this.rounds += 1;
    return {
      pages: writer.contentPages + writer.parentPages,
      changedPages: writer.contentPages,
      tookMs: performance.now() - startedAt,
    };
  }
}

/** Answers how many bytes the buffer then holds. */
async function receive(descriptor: number, buffer: PageBuffer, filled: number): Promise<number> {
  const received = await receiveInto(descriptor, buffer.address + filled, BUFFER_BYTES - filled);
  if (received === 0) throw new GodwitError("internal", "CRIU closed its page socket in the middle");
  return filled + received;
}
