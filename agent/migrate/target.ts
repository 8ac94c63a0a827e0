import { closeSync, openSync, writeSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase, type MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { CheckpointDescription, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { restore } from "../checkpoint/criu.ts";
import { CriuSession } from "../checkpoint/criu-session.ts";
import { endFilling, filled, forgetFilling, isUnfinished, LazyPages } from "../checkpoint/lazy-pages.ts";
import { DEV_MOUNTS, devMountFolder, dropDevMounts } from "../container/dev-mounts.ts";
import type { ContainerPaths } from "../container/paths.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import type { HeldMemory } from "../keep/held-memory.ts";
import { applyDeletions, applyLayer } from "../layer/apply.ts";
import { decodePaths } from "../layer/paths.ts";
import { isFilledLater, learnArrival } from "../model/move-costs.ts";
import type { ContainerRecord, InitProcess, RecordStatus } from "../model/record.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { removeTree } from "../native/remove-tree.ts";
import { holdClosings, releaseClosings } from "../network/closings.ts";
import { LogImport } from "../shim/log-store.ts";
import { openReceiver } from "../stream/receiver.ts";
import { readRecords, type StreamRecord } from "../stream/records.ts";
import { makeImageFolder } from "./image-folder.ts";
import { Offer } from "./offer.ts";
import { makeWhole } from "./lazy-image.ts";
import { LAST_ROUND } from "./page-run.ts";
import { PageStore } from "./page-store.ts";
import type { MigrationProgress } from "./progress.ts";
import { treesOf } from "./trees.ts";
import { STREAM_IDLE_MS, streamEnds } from "./stream-ends.ts";

export interface TargetInputs {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly record: ContainerRecord;
  readonly migrationId: string;
  /** Aborts everything before the switch. */
  readonly signal: AbortSignal;
  /** Persists before it returns. */
  readonly setStatus: (status: RecordStatus) => void;
  readonly progress: MigrationProgress;
  /** Resolves when the log has given the container to this host; rejects when it has taken it back. */
  readonly switched: () => Promise<void>;
}

/**
 * The target's part: prepare, receive, restore up to the last moment before running, hold, and run after the
 * switch. Whatever it throws before the switch, nothing of the container has run here.
 */
export async function receiveFromSource(inputs: TargetInputs, order: MigrationOrder): Promise<InitProcess> {
  const { host, runtime, record, migrationId, signal, progress } = inputs;
  progress.enter(MigrationPhase.PREPARING);
  await runtime.makeFolders();
  inputs.setStatus({ kind: "restoring", migrationId, stage: "receiving" });
  await mkdir(runtime.paths.upper, { recursive: true });
  // What an attempt that was given up may have left: this one begins with empty ones.
  await dropDevMounts(runtime.paths);
  await makeImageFolder(runtime.paths.images);
  await using place = await RestorePlace.prepare(host, runtime, record, signal);
  using lazyPages = new LazyPages(runtime.paths.images);
  await using loan = host.held.lend(runtime.id);
  await using receiver = await openReceiver({
    connection: host.connection,
    ends: streamEnds(host, "target", order),
    signal,
    idleTimeoutMs: STREAM_IDLE_MS,
    offersPages: loan !== undefined,
  });
  using offer = loan === undefined ? undefined : new Offer(host, order, loan.memory, signal);
  progress.enter(MigrationPhase.READY);

  const { description, lazy, processes } = await takeIn(
    { runtime, lazyPages, held: loan?.memory },
    readRecords(receiver.chunks()),
    signal,
    () => {
      progress.enter(MigrationPhase.RECEIVING);
    },
  );
  offer?.[Symbol.dispose]();
  loan?.settle();
  const receivedAt = performance.now();
  const { memoryBytes, ownMemoryBytes } = description;
  host.logger.info({ migration: migrationId, memoryBytes, ownMemoryBytes, lazy }, "the image is whole");
  if (description.criuVersion !== host.criuVersion) {
    throw new GodwitError(
      "refused",
      `the source's CRIU is ${description.criuVersion}, this host's ${host.criuVersion}; install the same`,
    );
  }
  const encoded = Buffer.from(CheckpointDescription.encode(description).finish()).toString("base64");
  inputs.setStatus({ kind: "restoring", migrationId, stage: "received", description: encoded });
  const filling = lazy ? lazyPages.start(runtime.paths.lazyPages) : Promise.resolve();
  filling.catch(() => undefined); // awaited by the restore, unless something else fails first
  const size = { memoryBytes, processes };
  return await place.restore(inputs, description, {
    receivedAt,
    lazy,
    filling,
    took: (ms) => host.costs.learn((costs) => learnArrival(costs, size, ms)),
  });
}

/** After a crash: the image is here in full, the log says that the container is this host's. */
export async function restoreAgain(inputs: TargetInputs, encodedDescription: string): Promise<InitProcess> {
  const description = CheckpointDescription.decode(Buffer.from(encodedDescription, "base64"));
  // CRIU processes and half-built tasks of the earlier try: none of them has run a single instruction.
  await inputs.runtime.discardHalfRestored();
  forgetFilling(inputs.runtime.paths.images);
  makeWhole(inputs.runtime.paths.images);
  await using place = await RestorePlace.prepare(inputs.host, inputs.runtime, inputs.record, inputs.signal);
  // Not on demand this time: the simplest way is the surest.
  return await place.restore(inputs, description, { receivedAt: performance.now(), lazy: false });
}

interface RestoreTerms {
  /** TCP connections are closed instead of going on. */
  readonly closesConnections?: boolean;
  readonly receivedAt: number;
  readonly lazy: boolean;
  /** What fills the memory later is about to be ready. */
  readonly filling?: Promise<void>;
  /** Told the milliseconds from `receivedAt` until it ran. */
  readonly took?: (ms: number) => void;
}

/** Cgroups, network and a waiting CRIU: all that a restore needs and that no image is needed for. */
export class RestorePlace implements AsyncDisposable {
  readonly #session: CriuSession;
  readonly #pipes: ReturnType<ContainerRuntime["openPipes"]>;
  readonly #placeholderPid: number;
  #closed = false;

  private constructor(
    session: CriuSession,
    pipes: ReturnType<ContainerRuntime["openPipes"]>,
    placeholderPid: number,
  ) {
    this.#session = session;
    this.#pipes = pipes;
    this.#placeholderPid = placeholderPid;
  }

  static async prepare(
    host: Host,
    runtime: ContainerRuntime,
    record: ContainerRecord,
    signal: AbortSignal,
  ): Promise<RestorePlace> {
    const pipes = runtime.openPipes();
    const placeholderPid = await runtime.createPlaceholder(record, pipes, signal);
    await runtime.plug(record);
    await holdClosings(runtime.attachment);
    // CRIU's own processes start inside the container's cgroups, where its limits would hit them.
    runtime.cgroup.liftLimits();
    const netns = openSync(runtime.attachment.namespacePath, "r");
    try {
      const session = await CriuSession.start({
        criuPath: host.criuPath,
        inherit: [netns, pipes.writeStdout, pipes.writeStderr],
        cgroupProcs: runtime.cgroup.procsFiles,
      });
      return new RestorePlace(session, pipes, placeholderPid);
    } finally {
      closeSync(netns);
    }
  }

  async restore(
    inputs: TargetInputs,
    description: CheckpointDescription,
    { closesConnections = false, receivedAt, lazy, filling, took }: RestoreTerms,
  ): Promise<InitProcess> {
    const { host, runtime, record, migrationId, progress } = inputs;
    await runtime.mountRootfs(record, inputs.signal);
    const plug = await runtime.plug(record);
    await filling;
    let init: InitProcess | undefined;
    let switchedAt = 0;
    // CRIU itself knows of no abort: ending it ends what it built.
    const abort = (): void => void this.#session[Symbol.asyncDispose]();
    inputs.signal.addEventListener("abort", abort, { once: true });
    using _ = { [Symbol.dispose]: () => inputs.signal.removeEventListener("abort", abort) };
    await restore({
      rootfs: runtime.paths.rootfs,
      imagesDir: runtime.paths.images,
      externalMounts: description.externalMounts.map((path) => ({
        path,
        source: providedFor(path, runtime.paths),
      })),
      inheritedPipes: [
        { key: description.stdoutPipe, index: 1 },
        { key: description.stderrPipe, index: 2 },
      ].filter(({ key }) => key !== ""),
      netnsIndex: 0,
      closesConnections,
      lazy,
      session: this.#session,
      onRestored: async (pid) => {
        process.kill(this.#placeholderPid, "SIGKILL");
        init = runtime.initProcess(pid);
        await runtime.attachOutput(this.#pipes, init, {
          o: description.partialStdout,
          e: description.partialStderr,
        });
        const restoreMs = performance.now() - receivedAt;
        progress.figures({ restoreMs });
        progress.enter(MigrationPhase.RESTORED);
        await inputs.switched();
        switchedAt = performance.now();
        // From here on CRIU goes on to the end, whatever becomes of this process.
        inputs.setStatus({ kind: "restoring", migrationId, stage: "ran", init });
      },
      onNetworkUnlock: () => {
        plug.plugIn();
        return Promise.resolve();
      },
    });
    if (init === undefined)
      throw new GodwitError("internal", "CRIU never said that it had restored the container");
    const runningAt = performance.now();
    progress.figures({ resumeMs: runningAt - switchedAt, blackoutMs: runningAt - receivedAt });
    took?.(runningAt - receivedAt);
    await host.runc.adoptInit(runtime.id, init.pid, init.startTicks, runtime.paths.rootfs);
    runtime.cgroup.applyLimits(record.spec.limits);
    return init;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#session[Symbol.asyncDispose]();
    closeSync(this.#pipes.writeStdout);
    closeSync(this.#pipes.writeStderr);
  }
}

/** What a mount that the checkpoint leaves to this host is made from: a masked file is covered with nothing. */
function providedFor(path: string, paths: ContainerPaths): string {
  const mount = DEV_MOUNTS.find(({ destination }) => destination === path);
  return mount === undefined ? "/dev/null" : devMountFolder(paths, mount.name);
}

interface TakeInMeans {
  readonly runtime: ContainerRuntime;
  readonly lazyPages: LazyPages;
  readonly held: HeldMemory | undefined;
}

/** Writes what comes into the writable layer, the log and the image folder. */
export async function takeIn(
  { runtime, lazyPages, held }: TakeInMeans,
  records: AsyncIterable<StreamRecord>,
  signal: AbortSignal,
  onFirst: () => void,
): Promise<{ description: CheckpointDescription; lazy: boolean; processes: number }> {
  let lazy = false;
  let processes = 1;
  let description: CheckpointDescription | undefined;
  let open: { name: string; descriptor: number } | undefined;
  let files = 0;
  let rehearsalAtBytes = FILLER_FROM_BYTES;
  using log = new LogImport(runtime.paths.log);
  await using pages = new PageStore(runtime.paths.images, held);
  const folders = new Map(treesOf(runtime.paths).map(({ name, folder }) => [name, folder]));
  const folderOf = (name: string): string => {
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
      if (first) onFirst();
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
          if (pages.contentBytes >= rehearsalAtBytes) {
            // Twice as much of it is worth another one; when the last comes, none may be under way.
            rehearsalAtBytes *= 2;
            pages.writeRehearsal();
            lazyPages.rehearse();
          }
          break;
        case RecordKind.ROUND_END:
          await pages.endRound(header.name === LAST_ROUND);
          break;
        case RecordKind.DESCRIPTION:
          description = CheckpointDescription.decode(await collect(body));
          log.finish(description.logOffset);
          break;
        case RecordKind.END: {
          processes = pages.processes;
          const memoryBytes = description?.memoryBytes ?? 0;
          lazy = isFilledLater({ memoryBytes, processes }, description?.ownMemoryBytes);
          // A page that was forgotten on its way would read as zeros.
          if ((await pages.finish(lazy)) * PAGE_BYTES !== memoryBytes)
            throw new GodwitError("corrupt", "the image has not the pages that the container has");
          break;
        }
        case RecordKind.HELD_PAGES:
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

/** It runs: it may end connections again. */
export async function releaseNetwork(runtime: ContainerRuntime): Promise<void> {
  await releaseClosings(runtime.attachment);
}

/** Resolves when all of the container's memory is in place, or never will be: then it answers false. */
export async function isFilled(runtime: ContainerRuntime, signal: AbortSignal): Promise<boolean> {
  await filled(runtime.paths.lazyPages, signal);
  return !isUnfinished(runtime.paths.images);
}

/** The image has done its work: gives its memory back to the host. */
export async function dropImage(runtime: ContainerRuntime): Promise<void> {
  endFilling(runtime.paths.lazyPages);
  await runtime.removePlaceholder();
  await removeTree(runtime.paths.images);
  await rm(`${runtime.paths.bundle}/init.pid`, { force: true });
}
