import { closeSync, openSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase, type MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { CheckpointDescription } from "../../proto/gen/godwit/v1/stream.ts";
import { restore } from "../checkpoint/criu.ts";
import { CriuSession } from "../checkpoint/criu-session.ts";
import { endFilling, filled, forgetFilling, isUnfinished, LazyPages } from "../checkpoint/lazy-pages.ts";
import { DEV_MOUNTS, devMountFolder, dropDevMounts } from "../container/dev-mounts.ts";
import { OutputPipes } from "../container/output-pipes.ts";
import type { ContainerPaths } from "../container/paths.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import { learnArrival } from "../model/move-costs.ts";
import type { ContainerRecord, FollowingMemory, InitProcess, RecordStatus } from "../model/record.ts";
import { removeTree } from "../native/remove-tree.ts";
import { holdClosings, releaseClosings } from "../network/closings.ts";
import type { PacketHold } from "../network/packet-hold.ts";
import { openReceiver } from "../stream/receiver.ts";
import { readRecords } from "../stream/records.ts";
import { makeImageFolder } from "./image-folder.ts";
import { Offer } from "./offer.ts";
import { makeWhole } from "./criu-lists.ts";
import type { PageFollowing } from "./page-following.ts";
import type { MigrationProgress } from "./progress.ts";
import { STREAM_IDLE_MS, streamEnds } from "./stream-ends.ts";
import { takeIn } from "./take-in.ts";

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
  /** Of a post-copy. */
  readonly following?: PageFollowing;
}

/** Makes the folders that a checkpoint is taken in to, and says so in the record. */
export async function beginReceiving({ migrationId, runtime, setStatus }: TargetInputs): Promise<void> {
  await runtime.makeFolders();
  setStatus({ kind: "restoring", migrationId, stage: "receiving" });
  await mkdir(runtime.paths.upper, { recursive: true });
  // What an attempt that was given up may have left: this one begins with empty ones.
  await dropDevMounts(runtime.paths);
  await makeImageFolder(runtime.paths.images);
}

/**
 * The target's part: prepare, receive, restore up to the last moment before running, hold, and run after the
 * switch. Whatever it throws before the switch, nothing of the container has run here.
 */
export async function receiveFromSource(inputs: TargetInputs, order: MigrationOrder): Promise<InitProcess> {
  const { host, runtime, record, migrationId, signal, progress } = inputs;
  const isPostcopy = order.mode === MigrationMode.POSTCOPY;
  progress.enter(MigrationPhase.PREPARING);
  await beginReceiving(inputs);
  await using place = await RestorePlace.prepare(host, runtime, record, signal);
  using hold = await (await runtime.plug(record)).openHold(record.address);
  using lazyPages = new LazyPages(runtime.paths.images);
  if (inputs.following !== undefined) lazyPages.begin();
  await using loan = host.held.lend(runtime.id);
  await using receiver = await openReceiver({
    connection: host.connection,
    ends: streamEnds(host, "target", order),
    signal,
    idleTimeoutMs: STREAM_IDLE_MS,
    offersPages: loan !== undefined && !isPostcopy,
  });
  using offer = loan === undefined || isPostcopy ? undefined : new Offer(host, order, loan.memory, signal);
  const mountRootfs = await runtime.prepareRootfs(record, signal);
  let isMounted = false;
  progress.enter(MigrationPhase.READY);

  const taken = await takeIn(
    { runtime, lazyPages, held: loan?.memory, isPostcopy },
    readRecords(receiver.chunks()),
    signal,
    {
      begun: () => progress.enter(MigrationPhase.RECEIVING),
      standsStill: () => hold.begin(),
      packet: (packet) => hold.take(packet),
      filesComplete: () => {
        mountRootfs();
        isMounted = true;
      },
    },
  );
  hold.begin();
  offer?.[Symbol.dispose]();
  loan?.settle();
  return await restoreReceived(inputs, place, lazyPages, taken, {
    ...(isPostcopy ? { following: { migrationId, from: order.peerNode } } : {}),
    hold,
    isMounted,
  });
}

/** An image that has just been taken in, restored where everything is ready for it. */
export async function restoreReceived(
  inputs: TargetInputs,
  place: RestorePlace,
  lazyPages: LazyPages,
  { description, lazy, processes }: Awaited<ReturnType<typeof takeIn>>,
  terms: Pick<RestoreTerms, "closesConnections" | "hold" | "isMounted"> & {
    /** Most of its memory is still there. */
    readonly following?: FollowingMemory;
  },
): Promise<InitProcess> {
  const { host, migrationId, progress, runtime } = inputs;
  const { following, ...rest } = terms;
  const receivedAt = performance.now();
  const { memoryBytes, ownMemoryBytes } = description;
  progress.figures({ memoryBytes });
  host.logger.info({ migration: migrationId, memoryBytes, ownMemoryBytes, lazy }, "the image is whole");
  if (description.criuVersion !== host.criuVersion) {
    throw new GodwitError(
      "refused",
      `the image was made by CRIU ${description.criuVersion}, this host has ${host.criuVersion}; install the same`,
    );
  }
  const encoded = Buffer.from(CheckpointDescription.encode(description).finish()).toString("base64");
  inputs.setStatus({
    kind: "restoring",
    migrationId,
    stage: "received",
    description: encoded,
    ...(following === undefined ? {} : { following }),
  });
  const filling = lazy
    ? lazyPages.start(runtime.paths.lazyPages).then(() => inputs.following?.begin())
    : Promise.resolve();
  filling.catch(() => undefined); // awaited by the restore, unless something else fails first
  const size = { memoryBytes, processes };
  return await place.restore(inputs, description, {
    receivedAt,
    lazy,
    filling,
    ...rest,
    // Of a move: what a checkpoint takes says nothing of those.
    ...(rest.closesConnections === true
      ? {}
      : { took: (ms) => host.costs.learn((costs) => learnArrival(costs, size, ms)) }),
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
  /** The root file system has been mounted. */
  readonly isMounted?: boolean;
  /** What has been sent to it while it stood still. */
  readonly hold?: PacketHold;
  /** What fills the memory later is about to be ready. */
  readonly filling?: Promise<void>;
  /** Told the milliseconds from `receivedAt` until it ran. */
  readonly took?: (ms: number) => void;
}

/** Cgroups, network and a waiting CRIU: all that a restore needs and that no image is needed for. */
export class RestorePlace implements AsyncDisposable {
  readonly #session: CriuSession;
  readonly #pipes: OutputPipes;
  readonly #placeholderPid: number;
  #closed = false;

  private constructor(session: CriuSession, pipes: OutputPipes, placeholderPid: number) {
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
    using opened = new DisposableStack();
    const pipes = opened.use(new OutputPipes());
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
        // A lease that ends freezes them, and the cluster may have gone on without this host when it is renewed.
        killedIn: host.cgroups.ownFreezerProcs,
      });
      opened.move();
      return new RestorePlace(session, pipes, placeholderPid);
    } finally {
      closeSync(netns);
    }
  }

  async restore(
    inputs: TargetInputs,
    description: CheckpointDescription,
    { closesConnections = false, receivedAt, lazy, hold, isMounted, filling, took }: RestoreTerms,
  ): Promise<InitProcess> {
    const { host, runtime, record, migrationId, progress } = inputs;
    if (isMounted !== true) await runtime.mountRootfs(record, inputs.signal);
    const plug = await runtime.plug(record);
    await filling;
    let init: InitProcess | undefined;
    let attached: Promise<void> | undefined;
    let switchedAt = 0;
    let heldPackets = 0;
    // CRIU itself knows of no abort: ending it ends what it built.
    const abort = (): void => void this.#session[Symbol.asyncDispose]();
    // Before it may have to wait for a page that nobody sends any more.
    inputs.signal.throwIfAborted();
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
      onInit: (pid) => {
        init = runtime.initProcess(pid);
        attached = runtime.attachOutput(this.#pipes, init, {
          o: description.partialStdout,
          e: description.partialStderr,
        });
        attached.catch(() => undefined); // awaited below, unless CRIU fails first
      },
      onRestored: async () => {
        if (init === undefined)
          throw new GodwitError("internal", "CRIU never named the container's first process");
        process.kill(this.#placeholderPid, "SIGKILL");
        await attached;
        const restoreMs = performance.now() - receivedAt;
        progress.figures({ restoreMs });
        progress.enter(MigrationPhase.RESTORED);
        await inputs.switched();
        switchedAt = performance.now();
        // From here on CRIU goes on to the end, whatever becomes of this process.
        inputs.setStatus({ kind: "restoring", migrationId, stage: "ran", init });
      },
      // Not before: what its sockets here acknowledge, those at the source never get, should it go on there.
      onResumes: () => {
        heldPackets = plug.plugIn(hold);
      },
    });
    if (init === undefined)
      throw new GodwitError("internal", "CRIU never said that it had restored the container");
    const runningAt = performance.now();
    progress.figures({ resumeMs: runningAt - switchedAt, blackoutMs: runningAt - receivedAt });
    took?.(runningAt - receivedAt);
    host.logger.info({ migration: migrationId, heldPackets }, "the container runs here");
    await host.runc.adoptInit(runtime.id, init.pid, init.startTicks, runtime.paths.rootfs);
    runtime.cgroup.applyLimits(record.spec.limits);
    return init;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#session[Symbol.asyncDispose]();
    this.#pipes[Symbol.dispose]();
  }
}

/** What a mount that the checkpoint leaves to this host is made from: a masked file is covered with nothing. */
function providedFor(path: string, paths: ContainerPaths): string {
  const mount = DEV_MOUNTS.find(({ destination }) => destination === path);
  return mount === undefined ? "/dev/null" : devMountFolder(paths, mount.name);
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

/** The container has ended without all of its memory: nobody waits for that any longer. */
export const stopFilling = (runtime: ContainerRuntime): void => endFilling(runtime.paths.lazyPages);

/** The image has done its work: gives its memory back to the host. */
export async function dropImage(runtime: ContainerRuntime): Promise<void> {
  endFilling(runtime.paths.lazyPages);
  await runtime.removePlaceholder();
  await removeTree(runtime.paths.images);
  await rm(`${runtime.paths.bundle}/init.pid`, { force: true });
}
