import { createReadStream } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase, MigrationOrder, Role } from "../../proto/gen/godwit/v1/agent.ts";
import type { CheckpointOrder, CheckpointPeer } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { filled } from "../checkpoint/lazy-pages.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import { diskError } from "../layer/apply.ts";
import { makeImageFolder } from "../migrate/image-folder.ts";
import { MigrationProgress } from "../migrate/progress.ts";
import type { Copied } from "../migrate/copied.ts";
import { copyThrough } from "../migrate/copy.ts";
import type { CopiedWhole, Steering } from "../migrate/copy-terms.ts";
import { thaw } from "../migrate/thaw.ts";
import type { TreeState } from "../migrate/tree-copy.ts";
import type { ContainerRecord, InitProcess, RecordStatus } from "../model/record.ts";
import { removeTree } from "../native/remove-tree.ts";
import { openSender, type ImageSender } from "../stream/sender.ts";
import { SealedFileWriter } from "./sealed-file.ts";
import { checkpointStream } from "./store.ts";

/** All of its memory, and then what was written meanwhile, before it is frozen for the rest. */
const ROUNDS = 2;
const KEEPER_SILENT_MS = 60_000;
const SEND_TRIES = 3;
const AGAIN_MS = 1_000;

/**
 * What is remembered of files stays in the agent's memory from one checkpoint to the next, some 30 MB for either: of a
 * container with more of them, everything is sent each time.
 */
const MOST_FILES = 100_000;
const MOST_BLOCKS = 1_000_000;

/** A checkpoint as its source remembers it, for the next one to build upon. */
export interface RememberedCheckpoint extends Copied {
  readonly id: string;
  /** Of its file. */
  readonly salt: Uint8Array;
  /** Of another start of the container nothing is alike. */
  readonly init: InitProcess;
}

export interface TakeInputs {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  /** As it is now: the status changes under way. */
  readonly record: () => ContainerRecord | undefined;
  readonly order: CheckpointOrder;
  /** What it builds upon: its keepers have that. */
  readonly base: RememberedCheckpoint | undefined;
  readonly signal: AbortSignal;
  /** Persists before it returns. */
  readonly setStatus: (status: RecordStatus) => void;
}

export interface TakenCheckpoint {
  readonly baseId: string;
  readonly sizeBytes: number;
  readonly memoryBytes: number;
  readonly wholeBytes: number;
  /** From the freeze until the container ran on. */
  readonly blackoutMs: number;
}

/**
 * Takes a checkpoint into a sealed file on this host: as a move does, except that the image goes nowhere and the
 * container runs on here as soon as it is whole. Whatever it throws, the container runs on.
 */
export async function takeCheckpoint(
  inputs: TakeInputs,
): Promise<{ readonly figures: TakenCheckpoint; readonly remembered: RememberedCheckpoint | undefined }> {
  const { host, order, record, runtime, signal } = inputs;
  const before = record();
  const running = before?.status;
  if (before === undefined || running?.kind !== "running")
    throw new GodwitError("refused", "the container does not run");
  // A move has to end them; a checkpoint can be taken at another time.
  if (host.exec().isBusy(runtime.id))
    throw new GodwitError("refused", 'a session of "godwit exec" is open in it: try again when it is over');
  const path = host.checkpoints.spoolPath(order.id);
  await filled(runtime.paths.lazyPages, signal);
  await makeImageFolder(runtime.paths.images);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => removeTree(runtime.paths.images));
  const base = inputs.base !== undefined && isSame(inputs.base.init, running.init) ? inputs.base : undefined;
  using file = new SealedFileWriter(path, order.key, base?.salt);
  let copied: CopiedWhole | undefined;
  let rounds = 0;
  let frozenAtMs = 0;
  let blackoutMs = 0;
  const steering: Steering = {
    signal,
    follow: () => undefined,
    goesOn: () => rounds < ROUNDS,
    add: () => void (rounds += 1),
    freezes: () => {
      frozenAtMs = performance.now();
      // A quota would hit CRIU's work inside the container too; the thaw sets it again.
      runtime.cgroup.limitCpu(0);
    },
    committed: () => undefined,
    sent: () => undefined,
  };
  const progress = new MigrationProgress(
    order.id,
    runtime.id,
    Role.OWNER,
    MigrationPhase.COPYING,
    () => undefined,
  );
  try {
    const chain = { base, copied: (whole: CopiedWhole) => void (copied = whole) };
    const means = { sender: new FileSink(file), pilot: steering, recording: undefined, chain };
    const grip = await copyThrough(means, running, {
      host,
      runtime,
      record: before,
      signal,
      progress,
      farewell: "a checkpoint of the container is taken",
      order: MigrationOrder.fromPartial({ id: order.id, mode: MigrationMode.PRECOPY }),
      // Nobody else ever runs it: an agent that finds it frozen lets it go on.
      setStatus: (status) => inputs.setStatus(status.kind === "frozen" ? { ...status, sent: "no" } : status),
    });
    undo.use(grip);
  } catch (error) {
    host.checkpoints.emptySpool(order.id);
    throw diskError(error);
  } finally {
    const now = record();
    if (now?.status.kind === "frozen") {
      await thaw(runtime, now);
      blackoutMs = performance.now() - frozenAtMs;
      const { init, startedAtMs } = now.status;
      inputs.setStatus({ kind: "running", init, startedAtMs });
    }
  }
  // Not while the container stands still: a disk may take its time.
  try {
    file.finish();
  } catch (error) {
    host.checkpoints.emptySpool(order.id);
    throw diskError(error);
  }
  if (copied === undefined) throw new GodwitError("internal", "a copy that does not say what it has copied");
  const { ledger, logOffset, trees, wholeBytes } = copied;
  return {
    figures: {
      baseId: base?.id ?? "",
      sizeBytes: file.sizeBytes,
      memoryBytes: progress.report().figures?.memoryBytes ?? 0,
      wholeBytes,
      blackoutMs,
    },
    remembered: isRemembered(trees)
      ? { id: order.id, salt: file.salt, init: running.init, ledger, logOffset, trees }
      : undefined,
  };
}

function isRemembered(trees: Copied["trees"]): boolean {
  const sum = (of: (tree: TreeState) => number): number =>
    trees.values().reduce((before, tree) => before + of(tree), 0);
  return sum(({ sent }) => sent.size) <= MOST_FILES && sum(({ blocks }) => blocks.count) <= MOST_BLOCKS;
}

const isSame = (one: InitProcess, other: InitProcess): boolean =>
  one.pid === other.pid && one.startTicks === other.startTicks;

/** What a stream to a target is to a move. */
class FileSink implements ImageSender {
  readonly #file: SealedFileWriter;
  readonly offersPages = false;

  constructor(file: SealedFileWriter) {
    this.#file = file;
  }

  get sentBytes(): number {
    return this.#file.sizeBytes;
  }
  get rawBytes(): number {
    return this.#file.rawBytes;
  }
  write(bytes: Uint8Array): Promise<void> {
    this.#file.write(bytes);
    return Promise.resolve();
  }
  hurry(): void {
    this.#file.hurry();
  }
  flush(): Promise<void> {
    return Promise.resolve();
  }
  drain(): Promise<void> {
    return Promise.resolve();
  }
  finish(): Promise<void> {
    return Promise.resolve();
  }
  abort(): void {
    // Whoever made the file deletes it.
  }
  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

/** To each of its keepers; then the file here has served. */
export async function sendToKeepers(host: Host, order: CheckpointOrder, signal: AbortSignal): Promise<void> {
  const path = host.checkpoints.spoolPath(order.id);
  try {
    await Promise.all(
      order.keepers.map(async (keeper) => {
        for (let attempt = 1; ; attempt += 1) {
          try {
            await send(host, order.id, path, keeper, signal);
            return;
          } catch (error) {
            if (signal.aborted || attempt === SEND_TRIES) throw error;
            await delay(AGAIN_MS, undefined, { signal, ref: false });
          }
        }
      }),
    );
  } finally {
    host.checkpoints.emptySpool(order.id);
  }
}

async function send(
  host: Host,
  id: string,
  path: string,
  keeper: CheckpointPeer,
  signal: AbortSignal,
): Promise<void> {
  const { config, connection, identity } = host;
  await using sender = await openSender({
    connection,
    ends: {
      role: "source",
      migration: checkpointStream(id, keeper.node),
      node: config.node,
      identity,
      peerNode: keeper.node,
      peerKey: keeper.key,
    },
    signal,
    idleTimeoutMs: KEEPER_SILENT_MS,
    bytesPerSecond: config.moveBytesPerSecond ?? 0,
  });
  for await (const piece of createReadStream(path, { highWaterMark: 1024 * 1024, signal }))
    await sender.write(piece as Buffer);
  await sender.finish();
}
