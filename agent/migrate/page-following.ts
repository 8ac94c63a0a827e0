import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { pagesOf } from "../checkpoint/page-runs.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { PageWord } from "../filler/page-words.ts";
import type { Host } from "../host.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { openReceiver } from "../stream/receiver.ts";
import { encodeRecordHeader, readRecords, type StreamRecord } from "../stream/records.ts";
import { type ImageSender, openSender } from "../stream/sender.ts";
import { FillerLine } from "./filler-line.ts";
import { FollowingFiles } from "./following-files.ts";
import { decodePageRun, MAX_RUN_PAGES, PAGE_RUN_HEAD_BYTES } from "./page-run.ts";
import { PageSet } from "./page-set.ts";
import { SESSION_IDLE_MS, sessionEnds } from "./stream-ends.ts";
import { untilAborted } from "./until-aborted.ts";
import { encodeWanted, MAX_WANTED_RUNS } from "./wanted-pages.ts";

/** Between two sessions. */
const PAUSE_MS = 500;

export interface PageFollowingTerms {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly order: MigrationOrder;
  /** There is another session: the source has to be told. */
  readonly changed: () => void;
}

/**
 * The rest of a container's memory after a post-copy, at the target: fetched from the source's frozen copy, in sessions.
 * One that breaks off, for whatever reason, is followed by the next: as long as the log does not say that the source is
 * gone, the container waits for it.
 */
export class PageFollowing implements AsyncDisposable {
  readonly migrationId: string;
  readonly #terms: PageFollowingTerms;
  readonly #over = new AbortController();
  readonly #runs = Promise.withResolvers<void>();
  #session: number;
  #ended: Promise<void> | undefined;

  /** @param session 0 for the first one, of which the source knows; after a restart of the agent another one */
  constructor(terms: PageFollowingTerms, session: number) {
    this.#terms = terms;
    this.#session = session;
    this.migrationId = terms.order.id;
  }

  get session(): number {
    return this.#session;
  }

  /** The filler is there: it is told of what comes, and what somebody waits for is asked for. */
  begin(): void {
    this.#ended ??= this.#follow(this.#over.signal);
  }

  /** The container runs: everything may come. */
  containerRuns(): void {
    this.#runs.resolve();
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { host, order } = this.#terms;
    while (!signal.aborted) {
      try {
        await untilAborted(this.#fetch(signal), signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        host.logger.warn(
          { err: error, migration: order.id, session: this.#session },
          "pages that follow have stopped coming; they are asked for again",
        );
      }
      await delay(PAUSE_MS, undefined, { signal }).catch(() => undefined);
      // Never a number that was used before, by this agent or one before it.
      this.#session = Date.now();
      this.#terms.changed();
    }
  }

  /** One session. Resolves when nothing is lacking. */
  async #fetch(moves: AbortSignal): Promise<void> {
    const { host, order, runtime } = this.#terms;
    const over = new AbortController();
    const signal = AbortSignal.any([moves, over.signal]);
    try {
      using files = new FollowingFiles(runtime.paths.images);
      // A container so small that all of it had to come at once: nobody is at the other end of the line.
      if (files.isEmpty) return;
      using line = await FillerLine.call(runtime.paths.images, signal);
      const lacking = await line.lacking();
      if (lacking.length === 0) return;
      const ends = sessionEnds(host, "target", order, this.#session);
      const common = { connection: host.connection, signal, idleTimeoutMs: SESSION_IDLE_MS };
      await using receiver = await openReceiver({ ...common, ends: ends.pages });
      await using sender = await openSender({ ...common, ends: ends.wanted });
      await sendWords(sender, RecordKind.MISSING_PAGES, lacking);
      const arrival = takePages(readRecords(receiver.chunks()), { files, line, lacking });
      const wishing = this.#wish(line, sender, arrival);
      await Promise.race([arrival, wishing.then(() => arrival)]);
      await wishing;
    } finally {
      over.abort(new GodwitError("cancelled", "the session is over"));
    }
  }

  /** Until all has come: asks for what somebody waits for, and for everything when the container runs. */
  async #wish(line: FillerLine, sender: ImageSender, arrival: Promise<void>): Promise<void> {
    const all = arrival.then(() => "all" as const);
    let runs: Promise<"runs"> | undefined = this.#runs.promise.then(() => "runs" as const);
    const listen = (): Promise<readonly PageWord[]> => {
      const words = line.awaited();
      words.catch(() => undefined); // raced below, if anybody still does
      return words;
    };
    let awaited = listen();
    for (;;) {
      const next = await Promise.race([all, awaited, ...(runs === undefined ? [] : [runs])]);
      if (next === "all") {
        await sender.write(encodeRecordHeader({ kind: RecordKind.END }));
        await sender.finish();
        return;
      }
      if (next === "runs") {
        runs = undefined;
        await sender.write(encodeRecordHeader({ kind: RecordKind.ROUND_END }));
      } else {
        awaited = listen();
        await sendWords(sender, RecordKind.AWAITED_PAGES, next);
      }
      await sender.flush();
    }
  }

  /** Ends it, wherever it is. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort(new GodwitError("cancelled", "no more pages are wanted"));
    await this.#ended;
  }
}

async function sendWords(sender: ImageSender, kind: RecordKind, words: readonly PageWord[]): Promise<void> {
  const byProcess = Map.groupBy(words, ({ pid }) => pid);
  for (const [pid, runs] of byProcess)
    for (let first = 0; first < runs.length; first += MAX_WANTED_RUNS) {
      const body = encodeWanted(runs.slice(first, first + MAX_WANTED_RUNS));
      await sender.write(encodeRecordHeader({ kind, length: body.byteLength, name: `1-${pid}` }));
      await sender.write(body);
    }
}

interface Arriving {
  readonly files: FollowingFiles;
  readonly line: FillerLine;
  readonly lacking: readonly PageWord[];
}

/** Until all that is lacking has come. */
async function takePages(
  records: AsyncIterable<StreamRecord>,
  { files, line, lacking }: Arriving,
): Promise<void> {
  let left = pagesOf(lacking);
  const arrived = new Map<string, PageSet>();
  for await (const { header, body } of records) {
    if (header.kind !== RecordKind.PAGES)
      throw new GodwitError("corrupt", "a record of no kind that belongs here");
    const { address, pages, content } = await readRun(header.length, body);
    files.write(header.name, address, content);
    line.arrived({ pid: Number(header.name.slice(2)), address, pages });
    let known = arrived.get(header.name);
    if (known === undefined) arrived.set(header.name, (known = new PageSet()));
    for (let index = 0; index < pages; index += 1) if (known.add(address + index * PAGE_BYTES)) left -= 1;
    if (left <= 0) return;
  }
  throw new GodwitError("corrupt", "the source has sent all, and pages are lacking");
}

async function readRun(
  length: number,
  body: AsyncIterable<Uint8Array>,
): Promise<{ readonly address: number; readonly pages: number; readonly content: Buffer }> {
  if (length > PAGE_RUN_HEAD_BYTES + MAX_RUN_PAGES * PAGE_BYTES)
    throw new GodwitError("corrupt", "a run of pages that is too long");
  const whole = Buffer.allocUnsafe(length);
  let filled = 0;
  for await (const piece of body) {
    whole.set(piece, filled);
    filled += piece.byteLength;
  }
  const run = decodePageRun(whole.subarray(0, PAGE_RUN_HEAD_BYTES), length - PAGE_RUN_HEAD_BYTES);
  if (run?.kind !== "content") throw new GodwitError("corrupt", "a run of pages that makes no sense");
  return { address: run.address, pages: run.pages, content: whole.subarray(PAGE_RUN_HEAD_BYTES) };
}
