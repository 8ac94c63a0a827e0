import type { MemoryRun, ProcessMemory } from "../checkpoint/process-memory.ts";
import { PAGE_BYTES, PageHasher } from "../native/page-hash.ts";
import { addressOf } from "../native/sockets.ts";
import type { HeldIndex } from "../keep/held-index.ts";
import type { ImageSender } from "../stream/sender.ts";
import { PageLedger } from "./page-ledger.ts";
import { PageWriter } from "./page-writer.ts";

export const BUFFER_BYTES = 4 * 1024 * 1024;
const BUFFER_PAGES = BUFFER_BYTES / PAGE_BYTES;
/** Others wait for the event loop no longer than this, as far as possible: CRIU among them. */
const TURN_MS = 1;

/** A buffer whose pages can be hashed where they lie. */
export class PageBuffer {
  readonly bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  readonly address = addressOf(this.bytes);
  readonly hasher = new PageHasher(this.bytes);
}

/** "<type>-<id>" as in page-run.ts. */
export function spaceOf(memory: ProcessMemory): string {
  return `1-${memory.innerPid}`;
}

/** Lets others have the event loop when its time is up: NATS, the reports, CRIU. */
export function fairTurns(signal: AbortSignal): () => Promise<void> {
  let turnAt = performance.now();
  return async () => {
    if (performance.now() - turnAt <= TURN_MS) return;
    await new Promise((resolve) => setImmediate(resolve));
    signal.throwIfAborted();
    turnAt = performance.now();
  };
}

/** Sends pages whose content the target has not, and remembers what it has. */
export class PageCopier {
  readonly sender: ImageSender;
  readonly ledger: PageLedger;
  readonly #held: HeldIndex | undefined;
  /** Allocated when first needed; reused from then on. */
  #buffer: PageBuffer | undefined;

  /**
   * @param held what the target holds since the container's last stay there
   * @param ledger what it has of the image already
   */
  constructor(sender: ImageSender, held: HeldIndex | undefined, ledger = new PageLedger()) {
    this.sender = sender;
    this.#held = held;
    this.ledger = ledger;
  }

  /** Takes note of those that are new to the target; `writer.flush(buffer.bytes)` sends them. */
  compare(
    buffer: PageBuffer,
    offset: number,
    { space, address, pages }: MemoryRun & { readonly space: string },
    writer: PageWriter,
  ): void {
    const first = address / PAGE_BYTES;
    for (let index = 0; index < pages; index += 1) {
      const at = offset + index * PAGE_BYTES;
      const hash = buffer.hasher.hash(at);
      if (this.ledger.get(space, first + index) === hash) continue;
      this.ledger.set(space, first + index, hash);
      const held = this.#held?.holds(space, first + index, buffer.hasher.digest(at)) === true;
      writer.add(space, address + index * PAGE_BYTES, held ? "held" : "content", at);
    }
  }

  /**
   * Reads pages and sends those whose content the target has not. Many runs of few pages share a buffer. What is not
   * there (any more) is passed over.
   */
  async send(
    memory: ProcessMemory,
    runs: Iterable<MemoryRun>,
    writer: PageWriter,
    signal: AbortSignal,
  ): Promise<void> {
    const buffer = (this.#buffer ??= new PageBuffer());
    const space = spaceOf(memory);
    const turn = fairTurns(signal);
    let used = 0;
    for (const run of runs) {
      for (let done = 0; done < run.pages;) {
        await turn();
        const address = run.address + done * PAGE_BYTES;
        const wanted = Math.min(BUFFER_PAGES - used, run.pages - done);
        const pages = memory.readPages(buffer.bytes, used * PAGE_BYTES, address, wanted);
        if (pages === 0) {
          // Unmapped meanwhile; what comes after it may be there, and its writes will not be told again.
          done += 1;
          continue;
        }
        this.compare(buffer, used * PAGE_BYTES, { space, address, pages }, writer);
        done += pages;
        used += pages;
        if (used === BUFFER_PAGES) {
          await writer.flush(buffer.bytes);
          used = 0;
        }
      }
    }
    await writer.flush(buffer.bytes);
    signal.throwIfAborted();
  }
}
