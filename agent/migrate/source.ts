import { closeSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { CheckpointDescription, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { connectionsArrive } from "../checkpoint/arriving.ts";
import { dump } from "../checkpoint/criu.ts";
import { keepTimersGoing } from "../checkpoint/files-image.ts";
import { filled } from "../checkpoint/lazy-pages.ts";
import { pageServerHeader } from "../checkpoint/page-server.ts";
import { makeParentImage } from "../checkpoint/parent-image.ts";
import { CriuSession } from "../checkpoint/criu-session.ts";
import { MASKED_PATHS } from "../container/bundle.ts";
import { DEV_MOUNTS } from "../container/dev-mounts.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { SubjectSampler } from "../forecast/subject-sampler.ts";
import type { Host } from "../host.ts";
import type { Recording } from "../keep/recording.ts";
import { sharesLittle } from "../model/move-costs.ts";
import type { ContainerRecord, InitProcess, RecordStatus } from "../model/record.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { openStreamPair, shutdownSocket } from "../native/sockets.ts";
import { removeTree } from "../native/remove-tree.ts";
import { inspect } from "../obstacles/inspect.ts";
import { watchesOf } from "../obstacles/watches.ts";
import { openSender, type ImageSender } from "../stream/sender.ts";
import { WriteTracker } from "../tracking/write-tracker.ts";
import type { Copied } from "./copied.ts";
import { bandwidthOf, CopyPilot } from "./copy-pilot.ts";
import { endImage } from "./image-end.ts";
import { listImageFiles, makeImageFolder } from "./image-folder.ts";
import type { DumpToServe } from "./last-round.ts";
import { sendLog } from "./log-copy.ts";
import { MemoryRounds } from "./memory-rounds.ts";
import { NamesRound } from "./names-round.ts";
import type { MigrationProgress } from "./progress.ts";
import { takeOffer } from "./offer.ts";
import { RecordWriter } from "./record-writer.ts";
import type { RoundFigures } from "./round-figures.ts";
import { TreeCopy } from "./tree-copy.ts";
import { treesOf } from "./trees.ts";
import { freezeAtRest, unplug } from "./stand-still.ts";
import { STREAM_IDLE_MS, streamEnds } from "./stream-ends.ts";

/** A smaller container's memory is sent again sooner than a thread has begun that would record it. */
const HELD_FROM_BYTES = 32 * 1024 * 1024;
/** Exec sessions get this long to end by themselves before the freeze. */
const EXEC_GRACE_MS = 2_000;
/** Rounds for processes that were forked meanwhile, at most: some programs fork all the time. */
const LATE_ROUNDS = 2;
/** What CRIU may have written before it is read. */
const PAGE_SOCKET_BYTES = 8 * 1024 * 1024;

export interface SourceInputs {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly record: ContainerRecord;
  readonly order: MigrationOrder;
  readonly signal: AbortSignal;
  /** Persists before it returns. */
  readonly setStatus: (status: RecordStatus) => void;
  readonly progress: MigrationProgress;
  readonly sampler: SubjectSampler;
  /** What sessions are told that have to end; without it, that the container moves. */
  readonly farewell?: string;
}

export interface CopyOutcome {
  /** Of the move's total time, what its forecast reckons piece by piece; the rest is what every move takes. */
  readonly forecastMs: number;
  /** What this host may go on holding of the container's memory, once it has left. */
  readonly recording: Recording | undefined;
  /** See copyThrough. */
  readonly grip: Disposable;
}

/**
 * The source's part of a migration up to DUMPED: files while the container runs, then freeze, dump, and what
 * changed. When it returns, the target has everything and the container stands frozen here, alive, until the
 * log says whose it is. When it throws, the record says whether this host may thaw it by itself.
 */
export async function copyToTarget(inputs: SourceInputs): Promise<CopyOutcome> {
  const { host, runtime, record, progress } = inputs;
  const running = record.status;
  if (running.kind !== "running")
    throw new GodwitError("refused", `the container is ${running.kind}, not running`);
  progress.enter(MigrationPhase.COPYING);
  await filled(runtime.paths.lazyPages, inputs.signal);
  await makeImageFolder(runtime.paths.images);
  await using undo = new AsyncDisposableStack();
  // Of a copy that has come off it goes with the container, or when that is thawed: the target needs the cores now.
  await using failed = new AsyncDisposableStack();
  failed.defer(() => removeTree(runtime.paths.images));
  const pilot = undo.use(await CopyPilot.begin(inputs));
  const { signal } = pilot;
  const sender = await openSender({
    connection: host.connection,
    ends: streamEnds(host, "source", inputs.order),
    signal,
    idleTimeoutMs: STREAM_IDLE_MS,
    bytesPerSecond: bandwidthOf(inputs),
  });
  undo.use(sender);
  const isWorthHolding =
    inputs.order.mode === MigrationMode.PRECOPY && runtime.cgroup.memoryBytes() >= HELD_FROM_BYTES;
  const recording = isWorthHolding ? host.held.record(runtime.id) : undefined;
  let grip: Disposable;
  try {
    grip = await copyThrough({ sender, pilot, recording }, running, inputs);
  } catch (error) {
    const reason = reasonOf(error, signal, runtime, running.init);
    // Whichever host is heard first: the operator is to read the cause, not that a stream ended.
    sender.abort(told(reason));
    if (recording !== undefined) host.held.drop(recording);
    throw reason;
  }
  progress.sent(sender.rawBytes);
  progress.enter(MigrationPhase.DUMPED);
  failed.move();
  return { forecastMs: pilot.elapsedMs + pilot.arrivalMs, recording, grip };
}

/** Who decides how a copy goes on. */
export type Steering = Pick<
  CopyPilot,
  "signal" | "follow" | "goesOn" | "add" | "freezes" | "committed" | "sent"
>;

interface CopyMeans {
  readonly sender: ImageSender;
  readonly pilot: Steering;
  readonly recording: Recording | undefined;
  /** Another copy will build upon this one. It may itself build upon an earlier one. */
  readonly chain?: { readonly base: Copied | undefined; readonly copied: (copied: CopiedWhole) => void };
}

export interface CopiedWhole extends Copied {
  /** Memory and files, as they are in the container. */
  readonly wholeBytes: number;
}

/**
 * Freezes the container and brings all of it to the other end. Answers the grip on its memory by which its writes were
 * known: letting go of gigabytes takes time, which is there when the container runs again, or is gone.
 */
export async function copyThrough(
  { sender, pilot, recording, chain }: CopyMeans,
  running: Extract<RecordStatus, { kind: "running" }>,
  inputs: Omit<SourceInputs, "sampler">,
): Promise<Disposable> {
  const { host, runtime, record, progress } = inputs;
  const { init } = running;
  const { signal } = pilot;
  const isPostcopy = inputs.order.mode === MigrationMode.POSTCOPY;
  await using undo = new AsyncDisposableStack();
  const writer = new RecordWriter(sender);
  // CRIU's start-up takes longer than freezing: it is over before the container stands still.
  const tracking = host.writeTracking;
  const [pageSocket, criuPageSocket] = openStreamPair(PAGE_SOCKET_BYTES);
  undo.defer(() => closeSync(pageSocket));
  let session: CriuSession;
  try {
    session = await CriuSession.start({
      criuPath: host.criuPath,
      inherit: [criuPageSocket],
      ...(tracking.kind === "write-protect" ? { trackingLibrary: tracking.criuLibrary } : {}),
    });
  } finally {
    closeSync(criuPageSocket);
  }
  undo.use(session);
  // What it has opened since it was looked at last is found here, before anything is copied.
  const [obstacle] = (
    await inspect({
      initPid: init.pid,
      pids: runtime.cgroup.processes(),
      watchedPaths: runtime.watchedPaths,
    })
  ).blockers;
  if (obstacle !== undefined) throw new GodwitError("refused", obstacle.reason);
  pilot.follow(sender);
  using grip = new DisposableStack();
  const tracker = grip.use(new WriteTracker(tracking, host.logger));
  const plug = await runtime.plug(record);
  let standsStill = false;
  const stragglers = await plug.openStragglers(chain !== undefined);
  undo.defer(() => {
    if (!standsStill) plug.dropStragglers();
  });
  const link = { plug, stragglers };

  const pids = (): number[] => [...runtime.cgroup.processes()];
  const trees = treesOf(runtime.paths).map(
    (tree) => new TreeCopy(tree, writer, chain?.base?.trees.get(tree.name), chain !== undefined),
  );
  let filesystemBytes = 0;
  for (const tree of trees) filesystemBytes += await tree.sendAll(pids, signal);
  const { endOffset: logSent } = await sendLog(writer, runtime.paths.log, chain?.base?.logOffset ?? 0);
  await sender.drain();
  const offer = sender.offersPages && !isPostcopy ? await takeOffer(host, inputs.order, signal) : undefined;
  progress.figures({ filesystemBytes, sentBytes: sender.sentBytes });
  const memory = new MemoryRounds({
    sender,
    tracker,
    held: offer?.index,
    recording,
    base: chain?.base?.ledger,
  });
  const sentSoFar = (): { sentBytes: number; reusedBytes: number } => ({
    sentBytes: sender.sentBytes + (offer?.bytes ?? 0),
    reusedBytes: memory.heldPages * PAGE_BYTES,
  });
  // What began after the last round looked would be sent whole while the container stands still.
  let late = 0;
  const goesOn = (): boolean => pilot.goesOn() || (memory.hasMissed(pids()) && (late += 1) <= LATE_ROUNDS);
  while (goesOn()) {
    const beganAt = performance.now();
    const round = await memory.copyRunning(runtime.cgroup.processes(), signal);
    // What is still on its way would be in the way of what is sent while the container stands still.
    await sender.drain();
    pilot.add({ ...round, tookMs: performance.now() - beganAt });
    progress.figures({ rounds: memory.rounds, ...sentSoFar() });
  }
  await sender.drain();
  await recording?.close();
  const farewell = inputs.farewell ?? `the container moves to ${inputs.order.peerNode}`;
  await host.exec().quiesce(runtime.id, EXEC_GRACE_MS, farewell);
  undo.defer(() => host.exec().admit(runtime.id));
  // Nobody has to wait for that while the container stands still.
  await host.shim.reads(runtime.id, signal);
  signal.throwIfAborted();

  const lastMemory = memory.prepareLast();
  const names = isPostcopy ? new NamesRound(sender, tracking.kind, runtime.paths.images) : undefined;

  const frozen = (sent: "no" | "maybe" | "yes"): RecordStatus => ({
    kind: "frozen",
    init,
    startedAtMs: running.startedAtMs,
    migrationId: inputs.order.id,
    sent,
  });
  const watched = await runtime.watchedPaths.find(init.pid, watchesOf(runtime.cgroup.processes()));
  inputs.setStatus(frozen("no"));
  standsStill = true;
  // Whoever finds that gives back what is taken from now on. Those who are held off reach the target.
  if (connectionsArrive(init.pid)) unplug(link);
  pilot.freezes();
  const frozenAt = performance.now();
  await freezeAtRest(runtime, init.pid, link, signal);
  if (!runtime.isRunning(init)) throw new GodwitError("refused", "the container ended before it was frozen");
  progress.enter(MigrationPhase.FROZEN);
  sender.hurry();
  // The other hosts are to learn soon where the container goes: what comes here from now on makes a detour.
  if (chain === undefined) stragglers.hearTunnel();
  await writer.write(RecordKind.STANDSTILL, new Uint8Array(0));
  await sender.flush();
  const standingAt = performance.now();

  if (tracking.kind !== "compare") makeParentImage(runtime.paths.images);
  const begun = Promise.withResolvers<void>();
  const toServe: DumpToServe = {
    descriptor: pageSocket,
    header: pageServerHeader(host.criuVersion),
    pids: runtime.cgroup.processes(),
    begun: begun.promise,
    signal,
  };
  const lastRound: Promise<RoundFigures> = names?.serve(toServe) ?? memory.copyFrozen(lastMemory, toServe);
  // Its failure is the dump's too, which is waited for first: CRIU must not go on writing to where nobody reads.
  lastRound.catch(() => shutdownSocket(pageSocket));
  const sendRest = async (): Promise<void> => {
    const round = await lastRound;
    const { pages } = round;
    const ownMemoryBytes = runtime.cgroup.ownMemoryBytes() ?? 0;
    if (isPostcopy && !sharesLittle(pages * PAGE_BYTES, ownMemoryBytes))
      throw new GodwitError(
        "refused",
        "its processes share much of their memory, which a post-copy would bring for each of them; use precopy",
      );
    const dumpedAt = performance.now();
    progress.figures({
      memoryBytes: pages * PAGE_BYTES,
      rounds: memory.rounds + (isPostcopy ? 1 : 0),
      freezeMs: standingAt - frozenAt,
      dumpMs: dumpedAt - standingAt,
    });
    const { partial } = await output;
    for (const tree of trees) filesystemBytes += await tree.sendChange(pids(), signal);
    const log = await sendLog(writer, runtime.paths.log, logSent);
    correctTimers(`${runtime.paths.images}/files.img`);
    for (const file of await listImageFiles(runtime.paths.images)) {
      await writer.writeFile(`${runtime.paths.images}/${file.name}`, file);
    }
    const description = CheckpointDescription.fromPartial({
      containerId: runtime.id,
      criuVersion: host.criuVersion,
      stdoutPipe: pipeOf(init.pid, 1),
      stderrPipe: pipeOf(init.pid, 2),
      externalMounts: providedIn(init.pid),
      memoryBytes: pages * PAGE_BYTES,
      ownMemoryBytes,
      restarts: record.restarts,
      logStartOffset: log.startOffset,
      logOffset: log.endOffset,
      partialStdout: partial.o,
      partialStderr: partial.e,
      frozenAtMs: Date.now(),
    });
    const sent = (word: "maybe" | "yes"): void => {
      inputs.setStatus(frozen(word));
      if (word === "maybe") pilot.committed();
    };
    // Of a checkpoint they are the container's that goes on here.
    if (chain === undefined)
      for (const packet of stragglers.take()) await writer.write(RecordKind.PACKET, packet);
    await endImage(writer, sender, description, { signal, sent });
    chain?.copied({
      ledger: memory.ledger,
      trees: new Map(trees.map((tree) => [tree.name, tree.state])),
      logOffset: log.endOffset,
      wholeBytes: pages * PAGE_BYTES + trees.reduce((sum, tree) => sum + tree.sizeBytes, 0),
    });
    const nowMs = performance.now();
    pilot.sent(round, nowMs - frozenAt);
    progress.figures({
      filesystemBytes,
      transferMs: nowMs - dumpedAt,
      ...sentSoFar(),
      blackoutMs: nowMs - frozenAt,
    });
  };
  // It writes nothing any more.
  const output = host.shim.detach(runtime.id);
  output.catch(() => undefined); // awaited when the rest is sent, unless something else fails first
  try {
    await dump({
      initPid: init.pid,
      rootfs: runtime.paths.rootfs,
      imagesDir: runtime.paths.images,
      freezerPath: runtime.cgroup.freezerPath,
      netnsInode: statSync(runtime.attachment.namespacePath).ino,
      externalMounts: providedIn(init.pid),
      watchedPaths: watched.paths,
      session,
      pageSocketIndex: 0,
      tracked: tracking.kind !== "compare",
      onBegun: begun.resolve,
      // Until here the kernel still took packets in and acknowledged them: fewer are sent again later.
      onNetworkLock: () => {
        unplug(link);
        return Promise.resolve();
      },
      onDumped: async () => {
        // CRIU has thawed the cgroup and holds the tasks by tracing them: dying now, it would let them run.
        await runtime.cgroup.freeze(signal);
        await sendRest();
      },
    });
  } catch (error) {
    sender.abort(told(reasonOf(error, signal, runtime, init)));
    throw error;
  } finally {
    // A CRIU that failed before its first page leaves the other end waiting.
    begun.resolve();
    shutdownSocket(pageSocket);
    await lastRound.catch(() => undefined);
  }
  return grip.move();
}

/** Of all that fails in a row, what failed first. */
function reasonOf(
  error: unknown,
  signal: AbortSignal,
  runtime: ContainerRuntime,
  init: InitProcess,
): unknown {
  const cause: unknown = signal.aborted ? signal.reason : error;
  return runtime.isRunning(init)
    ? cause
    : new GodwitError("unavailable", "the container ended during the move", { cause });
}

export const told = (value: unknown): string => {
  const { code, message } = GodwitError.from(value);
  return code === "refused" ? `refused: ${message}` : message;
};

function correctTimers(filesImage: string): void {
  const image = readFileSync(filesImage);
  if (keepTimersGoing(image) > 0) writeFileSync(filesImage, image);
}

/** What the target provides itself: /dev and /dev/shm, and of the masked files those that this kernel has. */
function providedIn(initPid: number): string[] {
  const masked = MASKED_PATHS.filter(
    (path) => statSync(`/proc/${initPid}/root${path}`, { throwIfNoEntry: false }) !== undefined,
  );
  return [...DEV_MOUNTS.map(({ destination }) => destination), ...masked];
}

/** "pipe:[inode]" when the descriptor is one; a process may have pointed its output elsewhere. */
function pipeOf(pid: number, descriptor: number): string {
  const target = readlinkSync(`/proc/${pid}/fd/${descriptor}`);
  return target.startsWith("pipe:") ? target : "";
}
