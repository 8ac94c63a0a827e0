import { GodwitError } from "../../proto/contract/error.ts";
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import type { Pages } from "../checkpoint/page-runs.ts";
import { ProcessMemory } from "../checkpoint/process-memory.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { openReceiver } from "../stream/receiver.ts";
import { readRecords, type StreamRecord } from "../stream/records.ts";
import { type ImageSender, openSender } from "../stream/sender.ts";
import { bandwidthOf } from "./copy-pilot.ts";
import { fairTurns, PageBuffer, spaceOf } from "./page-copier.ts";
import { PageSet } from "./page-set.ts";
import { PageWriter } from "./page-writer.ts";
import { SESSION_IDLE_MS, sessionEnds } from "./stream-ends.ts";
import { decodeWanted, MAX_WANTED_BYTES } from "./wanted-pages.ts";

/** Who waits for a page waits for all that is on its way before it. */
const WINDOW_BYTES = 4 * 1024 * 1024;
/** What goes out before it is looked again whether somebody waits. */
const BLOCK_PAGES = 64;
const TELL_EVERY_MS = 1_000;

export interface PageServiceTerms {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly order: MigrationOrder;
  readonly session: number;
  /** On the wire, and before compression. */
  readonly told: (sentBytes: number, rawBytes: number) => void;
  readonly signal: AbortSignal;
}

interface Wish extends Pages {
  readonly space: string;
}

/**
 * One session of a post-copy at the source: sends pages of the frozen container, first those that somebody waits for,
 * then, when the container runs at the target, all others that the target lacks. Resolves when it lacks none.
 * @throws GodwitError `not-found` when a page is not here any more: then it is nowhere
 */
export async function servePages(terms: PageServiceTerms): Promise<void> {
  const { host, order, session } = terms;
  const over = new AbortController();
  const signal = AbortSignal.any([terms.signal, over.signal]);
  const ends = sessionEnds(host, "source", order, session);
  const common = { connection: host.connection, signal, idleTimeoutMs: SESSION_IDLE_MS };
  await using receiver = await openReceiver({ ...common, ends: ends.wanted });
  await using sender = await openSender({
    ...common,
    ends: ends.pages,
    windowBytes: WINDOW_BYTES,
    bytesPerSecond: bandwidthOf(terms),
  });
  const wishes = new Wishes();
  const heard = wishes.hear(readRecords(receiver.chunks()));
  heard.catch(() => undefined); // it ends what waits for wishes
  const timer = setInterval(() => terms.told(sender.sentBytes, sender.rawBytes), TELL_EVERY_MS);
  try {
    await sendWished(terms.runtime, wishes, sender, signal);
    await heard;
  } finally {
    clearInterval(timer);
    terms.told(sender.sentBytes, sender.rawBytes);
    over.abort(new GodwitError("cancelled", "the session is over"));
  }
}

async function sendWished(
  runtime: ContainerRuntime,
  wishes: Wishes,
  sender: ImageSender,
  signal: AbortSignal,
): Promise<void> {
  using opened = new DisposableStack();
  const memories = new Map<string, ProcessMemory>();
  for (const pid of runtime.cgroup.processes()) {
    const memory = ProcessMemory.open(pid);
    if (memory !== undefined) memories.set(spaceOf(memory), opened.use(memory));
  }
  const sent = new Map<string, PageSet>();
  const buffer = new PageBuffer();
  const writer = new PageWriter(sender);
  const turn = fairTurns(signal);
  for (;;) {
    const wish = wishes.take(BLOCK_PAGES);
    if (wish === undefined) {
      await sender.flush();
      if (await wishes.more()) continue;
      return;
    }
    const { space, address, pages } = wish;
    const memory = memories.get(space);
    let known = sent.get(space);
    if (known === undefined) sent.set(space, (known = new PageSet()));
    const read = memory?.readPages(buffer.bytes, 0, address, pages) ?? 0;
    if (read < pages)
      throw new GodwitError(
        "not-found",
        `page ${(address + read * PAGE_BYTES).toString(16)} of ${space} is not in the frozen container any more`,
      );
    for (let index = 0; index < pages; index += 1) {
      const at = address + index * PAGE_BYTES;
      if (known.add(at)) writer.add(space, at, "content", index * PAGE_BYTES);
    }
    await writer.flush(buffer.bytes);
    if (!wishes.isAnyAwaited && wish.isAwaited) await sender.flush();
    await turn();
  }
}

/** What the target has asked for and has not been sent. */
class Wishes {
  readonly #awaited: Wish[] = [];
  readonly #lacking: Wish[] = [];
  /** The container runs there: from now on also what nobody waits for. */
  #isRunning = false;
  #isOver = false;
  #failure: unknown;
  #news = Promise.withResolvers<void>();

  get isAnyAwaited(): boolean {
    return this.#awaited.length > 0;
  }

  /** Takes in all that is asked for, until nothing is lacking. */
  async hear(records: AsyncIterable<StreamRecord>): Promise<void> {
    try {
      for await (const { header, body } of records) {
        switch (header.kind) {
          case RecordKind.MISSING_PAGES:
            this.#lacking.push(...(await wishesOf(header.name, header.length, body)));
            break;
          case RecordKind.AWAITED_PAGES:
            this.#awaited.push(...(await wishesOf(header.name, header.length, body)));
            break;
          case RecordKind.ROUND_END:
            this.#isRunning = true;
            break;
          case RecordKind.END:
            this.#isOver = true;
            break;
          default:
            throw new GodwitError("corrupt", "a record of no kind that belongs here");
        }
        this.#tell();
      }
    } catch (error) {
      this.#failure = error;
      this.#tell();
      throw error;
    }
  }

  /** The next pages to be sent; undefined: none for now. */
  take(most: number): (Wish & { readonly isAwaited: boolean }) | undefined {
    const isAwaited = this.#awaited.length > 0;
    const queue = isAwaited ? this.#awaited : this.#isRunning ? this.#lacking : [];
    const [first] = queue;
    if (first === undefined) return undefined;
    const { space, address, pages } = first;
    if (pages <= most) queue.shift();
    else queue[0] = { space, address: address + most * PAGE_BYTES, pages: pages - most };
    return { space, address, pages: Math.min(pages, most), isAwaited };
  }

  /** Waits until something is asked for. False: nothing will be any more. */
  async more(): Promise<boolean> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#isOver) return false;
      if (this.#awaited.length > 0 || (this.#isRunning && this.#lacking.length > 0)) return true;
      await this.#news.promise;
    }
  }

  #tell(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }
}

async function wishesOf(space: string, length: number, body: AsyncIterable<Uint8Array>): Promise<Wish[]> {
  if (length > MAX_WANTED_BYTES) throw new GodwitError("corrupt", "a wish for pages that is too long");
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(Uint8Array.from(piece));
  return decodeWanted(Buffer.concat(pieces)).map((run) => ({ space, ...run }));
}
