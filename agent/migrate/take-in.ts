import { closeSync, openSync, writeSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { CheckpointDescription, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import type { LazyPages } from "../checkpoint/lazy-pages.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { HeldMemory } from "../keep/held-memory.ts";
import { applyDeletions, applyLayer } from "../layer/apply.ts";
import { decodePaths } from "../layer/paths.ts";
import { isFilledLater } from "../model/move-costs.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { LogImport } from "../shim/log-store.ts";
import type { StreamRecord } from "../stream/records.ts";
import { LAST_ROUND } from "./page-run.ts";
import { PageStore } from "./page-store.ts";
import { treesOf } from "./trees.ts";

interface TakeInMeans {
  readonly runtime: ContainerRuntime;
  readonly lazyPages: LazyPages;
  readonly held: HeldMemory | undefined;
  readonly isPostcopy: boolean;
}

export interface TakeInEvents {
  readonly begun?: () => void;
  /** The container has been frozen at its source. */
  readonly standsStill?: () => void;
  /** It came to the source after that. */
  readonly packet?: (packet: Buffer) => void;
  /** Its files are here, all of them; what is left is the image. */
  readonly filesComplete?: () => void;
}

/** Writes what comes into the writable layer, the log and the image folder. */
export async function takeIn(
  { runtime, lazyPages, held, isPostcopy }: TakeInMeans,
  records: AsyncIterable<StreamRecord>,
  signal: AbortSignal,
  events: TakeInEvents = {},
): Promise<{ description: CheckpointDescription; lazy: boolean; processes: number }> {
  let lazy = false;
  let processes = 1;
  let description: CheckpointDescription | undefined;
  let open: { name: string; descriptor: number } | undefined;
  let files = 0;
  let isStill = false;
  using log = new LogImport(runtime.paths.log);
  using pages = new PageStore(runtime.paths.images, held);
  const folders = new Map(treesOf(runtime.paths).map(({ name, folder }) => [name, folder]));
  const folderOf = (name: string): string => {
    // They are being mounted by then.
    if (files > 0) throw new GodwitError("corrupt", "the container's files come after its image");
    const folder = folders.get(name);
    if (folder === undefined) throw new GodwitError("corrupt", `'${name}' is no tree of files`);
    return folder;
  };
  const iterator = records[Symbol.asyncIterator]();
  let first = true;
  try {
    for (;;) {
      const next = await iterator.next();
      if (next.done === true) break;
      if (first) events.begun?.();
      first = false;
      const { header, body } = next.value;
      switch (header.kind) {
        case RecordKind.LAYER:
          await applyLayer(folderOf(header.name), layerBytes(body, header.length, iterator), { signal });
          break;
        case RecordKind.LAYER_DELETIONS: {
          await applyDeletions(folderOf(header.name), decodePaths(await collect(body)));
          break;
        }
        case RecordKind.LOG:
          log.append(Number(header.name), await collect(body));
          break;
        case RecordKind.IMAGE_FILE: {
          // Synchronous: tens of small files on a tmpfs, while the container stands still.
          if (open?.name !== header.name) {
            if (open !== undefined) closeSync(open.descriptor);
            if (files === 0) events.filesComplete?.();
            files += 1;
            if (files > MAX_IMAGE_FILES) throw new GodwitError("corrupt", "the image has too many files");
            open = {
              name: header.name,
              descriptor: openSync(`${runtime.paths.images}/${header.name}`, "wx", 0o600),
            };
          }
          for await (const piece of body) writeFully(open.descriptor, piece);
          if (header.length === 0) {
            closeSync(open.descriptor);
            open = undefined;
          }
          break;
        }
        case RecordKind.PAGES:
          await pages.add(header.name, body, header.length);
          // In time before the image is whole: its start takes longer than a container may stand still.
          if (pages.contentBytes >= FILLER_FROM_BYTES) lazyPages.begin();
          break;
        case RecordKind.STANDSTILL:
          isStill = true;
          events.standsStill?.();
          break;
        case RecordKind.PACKET: {
          const packet = await collect(body);
          events.packet?.(packet);
          break;
        }
        case RecordKind.ROUND_END:
          await pages.endRound(header.name === LAST_ROUND);
          // What ends while the container stands still is taken in with the last.
          if (isStill || header.name === LAST_ROUND || pages.contentBytes < FILLER_FROM_BYTES) break;
          pages.writeIndexes();
          lazyPages.roundEnded();
          break;
        case RecordKind.DESCRIPTION:
          description = CheckpointDescription.decode(await collect(body));
          log.finish(description.logOffset);
          break;
        case RecordKind.END: {
          processes = pages.processes;
          const memoryBytes = description?.memoryBytes ?? 0;
          lazy = isPostcopy || isFilledLater({ memoryBytes, processes }, description?.ownMemoryBytes);
          if (pages.hasFollowing && !isPostcopy)
            throw new GodwitError("corrupt", "the image leaves pages out, and this is no post-copy");
          // A page that was forgotten on its way would read as zeros.
          if ((await pages.finish(lazy)) * PAGE_BYTES !== memoryBytes)
            throw new GodwitError("corrupt", "the image has not the pages that the container has");
          break;
        }
        case RecordKind.HELD_PAGES:
        case RecordKind.MISSING_PAGES:
        case RecordKind.AWAITED_PAGES:
        case RecordKind.UNSPECIFIED:
          throw new GodwitError("corrupt", "a record of no kind that belongs here");
      }
    }
  } finally {
    if (open !== undefined) closeSync(open.descriptor);
    await iterator.return?.();
  }
  if (description === undefined) throw new GodwitError("corrupt", "the image came without its description");
  if (description.containerId !== runtime.id)
    throw new GodwitError("corrupt", "the image is another container's");
  return { description, lazy, processes };
}

/** One tar stream in consecutive LAYER records up to the empty one. */
export async function* layerBytes(
  body: AsyncIterable<Uint8Array>,
  length: number,
  iterator: AsyncIterator<StreamRecord>,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (length === 0) return;
  yield* body;
  for (;;) {
    const next = await iterator.next();
    if (next.done === true || next.value.header.kind !== RecordKind.LAYER) {
      throw new GodwitError("corrupt", "the image's files end in the middle");
    }
    if (next.value.header.length === 0) return;
    yield* next.value.body;
  }
}

/** Of memory, when it begins to look as if there were enough of it to be filled later (isFilledLater). */
const FILLER_FROM_BYTES = 24 * 1024 * 1024;
const MAX_IMAGE_FILES = 100_000;

function writeFully(descriptor: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.byteLength;) written += writeSync(descriptor, bytes, written);
}

const MAX_COLLECTED_BYTES = 64 * 1024 * 1024;

export async function collect(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of body) {
    bytes += piece.byteLength;
    if (bytes > MAX_COLLECTED_BYTES) throw new GodwitError("corrupt", "a record of the image is too long");
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
