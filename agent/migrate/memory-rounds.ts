import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { type PageServerHeader, PageStreamParser } from "../checkpoint/page-server.ts";
import { type MemoryRun, ProcessMemory } from "../checkpoint/process-memory.ts";
import { splitByRanges } from "../checkpoint/split-ranges.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { PAGE_BYTES, PageHasher } from "../native/page-hash.ts";
import type { AddressRange } from "../native/pagemap-scan.ts";
import { addressOf, receiveInto, sendPacket } from "../native/sockets.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { TrackedProcess } from "../tracking/tracked-process.ts";
import type { WriteTracker } from "../tracking/write-tracker.ts";
import type { HeldIndex } from "../keep/held-index.ts";
import type { Recording } from "../keep/recording.ts";
import { PageLedger } from "./page-ledger.ts";
import { PageWriter } from "./page-writer.ts";

const BUFFER_BYTES = 4 * 1024 * 1024;
/** Others wait for the event loop no longer than this, as far as possible: CRIU among them. */
const TURN_MS = 1;
const BUFFER_PAGES = BUFFER_BYTES / PAGE_BYTES;

export interface RoundFigures {
  /** Pages that the container has, as far as is known, and those of them whose content this round sent. */
  readonly pages: number;
  readonly changedPages: number;
  /** Those that the target held since the container's last stay there. */
  readonly heldPages: number;
  readonly tookMs: number;
}

/** A buffer whose pages can be hashed where they lie. */
class PageBuffer {
  readonly bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  readonly address = addressOf(this.bytes);
  readonly hasher = new PageHasher(this.bytes);
}

/** "<type>-<id>" as in page-run.ts. */
function spaceOf(memory: ProcessMemory): string {
  return `1-${memory.innerPid}`;
}

export interface MemoryRoundsTerms {
  readonly sender: ImageSender;
  readonly tracker: WriteTracker;
  /** What the target holds since the container's last stay there. */
  readonly held: HeldIndex | undefined;
  /** Gets what is sent while the container runs. */
  readonly recording: Recording | undefined;
}

export interface DumpToServe {
  /** The socket that CRIU writes to. */
  readonly descriptor: number;
  readonly header: PageServerHeader;
  readonly pids: Iterable<number>;
  /** CRIU has its work, which it does on another core: before, what is done here would keep it waiting. */
  readonly begun: Promise<void>;
  readonly signal: AbortSignal;
}

/** What is still open about a frozen process's memory when CRIU says which of its pages there are. */
interface FrozenProcess {
  readonly memory: ProcessMemory;
  /** Pages that CRIU takes for known and that are compared all the same. */
  readonly untold: readonly AddressRange[];
}

/**
 * Sends a container's memory in rounds. Each sends only content that the target has not: of the pages that the kernel
 * says were written, or of all where it does not tell, those whose hash is another than when they were sent. The last
 * round's list of pages is CRIU's, which dumps the frozen container into a socket instead of files; it names every
 * page there is, so that what the container has given back in the meantime is forgotten.
 */
export class MemoryRounds {
  readonly #sender: ImageSender;
  readonly #tracker: WriteTracker;
  readonly #buffers = [new PageBuffer(), new PageBuffer()] as const;
  /** For pages that have to be read while the other two are in use. */
  #spare: PageBuffer | undefined;
  readonly #ledger = new PageLedger();
  readonly #held: HeldIndex | undefined;
  readonly #recording: Recording | undefined;
  rounds = 0;
  /** In all rounds. */
  heldPages = 0;

  constructor({ sender, tracker, held, recording }: MemoryRoundsTerms) {
    this.#sender = sender;
    this.#tracker = tracker;
    this.#held = held;
    this.#recording = recording;
  }

  /** One round while the container runs. */
  async copyRunning(pids: Iterable<number>, signal: AbortSignal): Promise<RoundFigures> {
    const startedAt = performance.now();
    const writer = new PageWriter(this.#sender, this.#recording);
    for (const pid of new Set(pids)) {
      using memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      const tracked = await this.#tracker.track(memory);
      await this.#sendRuns(memory, tracked.takeWritten(memory), writer, signal);
    }
    return await this.#endRound(writer, startedAt);
  }

  /**
   * The last round, of a frozen container: serves CRIU's page-server protocol until CRIU closes the socket,
   * after what was written since the last round has been sent. One buffer is filled while the pages of the other are
   * hashed.
   */
  async serveDump({ descriptor, header, pids, begun, signal }: DumpToServe): Promise<RoundFigures> {
    await begun;
    const startedAt = performance.now();
    using opened = new DisposableStack();
    const processes = new Map<string, FrozenProcess>();
    const delta = new PageWriter(this.#sender);
    for (const pid of new Set(pids)) {
      const memory = ProcessMemory.open(pid);
      if (memory === undefined) continue;
      opened.use(memory);
      const tracked: TrackedProcess | undefined = this.#tracker.find(memory);
      if (tracked?.knowsWrites !== true) continue;
      const { written, untold } = tracked.writtenAtLast(memory);
      await this.#sendRuns(memory, written, delta, signal);
      processes.set(spaceOf(memory), { memory, untold });
    }
    if (delta.contentPages + delta.heldPages > 0)
      await this.#sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));

    const writer = new PageWriter(this.#sender);
    const parser = new PageStreamParser(header, PAGE_BYTES);
    let [filling, hashing] = this.#buffers;
    let filled = await receive(descriptor, filling, 0);
    for (;;) {
      [filling, hashing] = [hashing, filling];
      const { opened: spaces, segments, consumed, finished } = parser.parse(hashing.bytes, filled);
      for (const space of spaces) {
        writer.open(space);
        // CRIU waits for this byte: whether it may leave out what was not written.
        sendPacket(descriptor, Uint8Array.of(processes.has(space) ? 1 : 0));
      }
      const rest = filled - consumed;
      hashing.bytes.copy(filling.bytes, 0, consumed, filled);
      const more = finished ? undefined : receive(descriptor, filling, rest);
      more?.catch(() => undefined); // awaited below, unless something else fails first
      for (const { space, address, pages, offset } of segments) {
        if (offset !== undefined) {
          this.#compare(hashing, offset, { space, address, pages }, writer, "list");
          continue;
        }
        // Reading on needs a buffer: what was noted of this one goes out first.
        await this.#listUnwritten(space, processes.get(space), { address, pages }, writer, () =>
          writer.flush(hashing.bytes),
        );
      }
      await writer.flush(hashing.bytes);
      if (more === undefined) break;
      filled = await more;
    }
    sendPacket(descriptor, new Uint8Array(4));
    const figures = await this.#endRound(writer, startedAt);
    this.heldPages += delta.heldPages;
    return {
      ...figures,
      pages: writer.contentPages + writer.parentPages + writer.heldPages,
      changedPages: writer.contentPages + delta.contentPages,
      heldPages: writer.heldPages + delta.heldPages,
    };
  }

  /** Reads pages and sends those whose content the target has not. */
  async #sendRuns(
    memory: ProcessMemory,
    runs: Iterable<MemoryRun>,
    writer: PageWriter,
    signal: AbortSignal,
  ): Promise<void> {
    const [, buffer] = this.#buffers;
    const space = spaceOf(memory);
    // Many runs of few pages share a buffer, and so a turn of the event loop.
    let used = 0;
    let turnAt = performance.now();
    const flush = async (): Promise<void> => {
      await writer.flush(buffer.bytes);
      used = 0;
      // Hashing keeps the event loop busy; NATS and the reports need their turn.
      await new Promise((resolve) => setImmediate(resolve));
      turnAt = performance.now();
      signal.throwIfAborted();
    };
    for (const run of runs) {
      for (let done = 0; done < run.pages;) {
        if (performance.now() - turnAt > TURN_MS) {
          await new Promise((resolve) => setImmediate(resolve));
          signal.throwIfAborted();
          turnAt = performance.now();
        }
        const address = run.address + done * PAGE_BYTES;
        const wanted = Math.min(BUFFER_PAGES - used, run.pages - done);
        const pages = memory.readPages(buffer.bytes, used * PAGE_BYTES, address, wanted);
        if (pages === 0) {
          // Unmapped meanwhile; what comes after it may be there, and its writes will not be told again.
          done += 1;
          continue;
        }
        this.#compare(buffer, used * PAGE_BYTES, { space, address, pages }, writer, "skip");
        done += pages;
        used += pages;
        if (used === BUFFER_PAGES) await flush();
      }
    }
    await flush();
  }

  /** Pages that CRIU has left out: the target has them, but for those about which nobody could tell. */
  async #listUnwritten(
    space: string,
    process: FrozenProcess | undefined,
    run: MemoryRun,
    writer: PageWriter,
    flush: () => Promise<void>,
  ): Promise<void> {
    for (const piece of splitByRanges(run, process?.untold ?? [])) {
      const first = piece.address / PAGE_BYTES;
      const parts = piece.inside
        ? [{ first, pages: piece.pages, known: false }]
        : this.#ledger.split(space, first, piece.pages);
      for (const part of parts) {
        if (part.known) writer.addParents(space, part.first * PAGE_BYTES, part.pages);
        else await this.#readUnwritten(space, process, part, writer, flush);
      }
    }
  }

  async #readUnwritten(
    space: string,
    process: FrozenProcess | undefined,
    { first, pages }: { readonly first: number; readonly pages: number },
    writer: PageWriter,
    flush: () => Promise<void>,
  ): Promise<void> {
    await flush();
    const buffer = (this.#spare ??= new PageBuffer());
    for (let done = 0; done < pages;) {
      const address = (first + done) * PAGE_BYTES;
      const read =
        process?.memory.readPages(buffer.bytes, 0, address, Math.min(BUFFER_PAGES, pages - done)) ?? 0;
      if (read === 0) {
        throw new GodwitError(
          "internal",
          `page ${address.toString(16)} of ${space} cannot be read while it is frozen`,
        );
      }
      this.#compare(buffer, 0, { space, address, pages: read }, writer, "list");
      await writer.flush(buffer.bytes);
      done += read;
    }
  }

  /** @param unchanged whether pages that the target has are listed, or need no word */
  #compare(
    buffer: PageBuffer,
    offset: number,
    { space, address, pages }: MemoryRun & { readonly space: string },
    writer: PageWriter,
    unchanged: "list" | "skip",
  ): void {
    const first = address / PAGE_BYTES;
    for (let index = 0; index < pages; index += 1) {
      const at = offset + index * PAGE_BYTES;
      const hash = buffer.hasher.hash(at);
      if (this.#ledger.get(space, first + index) !== hash) {
        this.#ledger.set(space, first + index, hash);
        const held = this.#held?.holds(space, first + index, buffer.hasher.digest(at)) === true;
        writer.add(space, address + index * PAGE_BYTES, held ? "held" : "content", at);
      } else if (unchanged === "list") writer.add(space, address + index * PAGE_BYTES, "parent", at);
    }
  }

  async #endRound(writer: PageWriter, startedAt: number): Promise<RoundFigures> {
    await this.#sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));
    this.rounds += 1;
    this.heldPages += writer.heldPages;
    return {
      pages: this.#ledger.pages,
      changedPages: writer.contentPages,
      heldPages: writer.heldPages,
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
