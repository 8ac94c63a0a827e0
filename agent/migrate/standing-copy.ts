import { readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { CheckpointDescription, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { connectionsArrive } from "../checkpoint/arriving.ts";
import { dump } from "../checkpoint/criu.ts";
import { keepTimersGoing } from "../checkpoint/files-image.ts";
import { pageServerHeader } from "../checkpoint/page-server.ts";
import { makeParentImage } from "../checkpoint/parent-image.ts";
import { MASKED_PATHS } from "../container/bundle.ts";
import { DEV_MOUNTS } from "../container/dev-mounts.ts";
import { sharesLittle } from "../model/move-costs.ts";
import type { RecordStatus } from "../model/record.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { shutdownSocket } from "../native/sockets.ts";
import type { NetworkPlug } from "../network/plug.ts";
import type { Stragglers } from "../network/stragglers.ts";
import { watchesOf } from "../obstacles/watches.ts";
import type { CopyMeans, RunningStatus, SourceInputs } from "./copy-terms.ts";
import type { FilesCopy } from "./files-copy.ts";
import { endImage } from "./image-end.ts";
import { listImageFiles } from "./image-folder.ts";
import type { LastRound } from "./last-round.ts";
import type { MemoryRounds } from "./memory-rounds.ts";
import { NamesRound } from "./names-round.ts";
import { reasonOf, told } from "./reason.ts";
import type { RecordWriter } from "./record-writer.ts";
import type { RoundFigures } from "./round-figures.ts";
import { freezeAtRest, unplug } from "./stand-still.ts";
import type { WaitingDump } from "./waiting-dump.ts";

/** All that was made ready while the container ran. */
export interface StandingTerms {
  readonly means: Pick<CopyMeans, "sender" | "pilot" | "chain">;
  readonly inputs: Omit<SourceInputs, "sampler">;
  readonly running: RunningStatus;
  readonly writer: RecordWriter;
  readonly waitingDump: WaitingDump;
  readonly link: { readonly plug: NetworkPlug; readonly stragglers: Stragglers };
  readonly files: FilesCopy;
  readonly memory: MemoryRounds;
  readonly sentSoFar: () => { readonly sentBytes: number; readonly reusedBytes: number };
}

/** What is waited for while CRIU dumps. */
interface UnderWay {
  readonly lastRound: Promise<RoundFigures>;
  readonly output: Promise<{ readonly partial: { readonly o: string; readonly e: string } }>;
}

/**
 * The part of a copy in which the container stands still: what was written since the last round, its processes, its
 * files' changes, and the words that make an image of it all. Clients wait for every millisecond of it.
 */
export class StandingCopy {
  /** From then on nothing but a thaw lets the container go on. */
  hasBegun = false;
  readonly #terms: StandingTerms;
  readonly #isPostcopy: boolean;
  readonly #lastMemory: LastRound;
  readonly #names: NamesRound | undefined;
  /** By performance.now(). */
  #frozenAt = 0;
  #standingAt = 0;

  constructor(terms: StandingTerms) {
    const { host, order, runtime } = terms.inputs;
    this.#terms = terms;
    this.#isPostcopy = order.mode === MigrationMode.POSTCOPY;
    this.#lastMemory = terms.memory.prepareLast();
    this.#names = this.#isPostcopy
      ? new NamesRound(terms.means.sender, host.writeTracking.kind, runtime.paths.images)
      : undefined;
  }

  /** Until the other end has everything. When it throws, the record says whether the container may be thawed. */
  async send(): Promise<void> {
    const { inputs, running } = this.#terms;
    const { runtime } = inputs;
    const watched = await runtime.watchedPaths.find(running.init.pid, watchesOf(runtime.cgroup.processes()));
    await this.#freeze();
    await this.#dump(watched.paths);
  }

  #frozen(sent: "no" | "maybe" | "yes"): RecordStatus {
    const { inputs, running } = this.#terms;
    const { init, startedAtMs } = running;
    return { kind: "frozen", init, startedAtMs, migrationId: inputs.order.id, sent };
  }

  async #freeze(): Promise<void> {
    const { inputs, link, means, running, writer } = this.#terms;
    const { runtime } = inputs;
    const { chain, pilot, sender } = means;
    const { init } = running;
    inputs.setStatus(this.#frozen("no"));
    this.hasBegun = true;
    // Whoever finds that gives back what is taken from now on. Those who are held off reach the target.
    if (connectionsArrive(init.pid)) unplug(link);
    pilot.freezes();
    this.#frozenAt = performance.now();
    await freezeAtRest(runtime, init.pid, link, pilot.signal);
    if (!runtime.isRunning(init))
      throw new GodwitError("refused", "the container ended before it was frozen");
    inputs.progress.enter(MigrationPhase.FROZEN);
    sender.hurry();
    // The other hosts are to learn soon where the container goes: what comes here from now on makes a detour.
    if (chain === undefined) link.stragglers.hearTunnel();
    await writer.write(RecordKind.STANDSTILL, new Uint8Array(0));
    await sender.flush();
    this.#standingAt = performance.now();
  }

  async #dump(watchedPaths: readonly string[]): Promise<void> {
    const { inputs, link, means, memory, running, waitingDump } = this.#terms;
    const { host, runtime } = inputs;
    const { signal } = means.pilot;
    const { init } = running;
    const { pageSocket, session } = waitingDump;
    const isTracked = host.writeTracking.kind !== "compare";
    if (isTracked) makeParentImage(runtime.paths.images);
    const begun = Promise.withResolvers<void>();
    const toServe = {
      descriptor: pageSocket,
      header: pageServerHeader(host.criuVersion),
      pids: runtime.cgroup.processes(),
      begun: begun.promise,
      signal,
    };
    const lastRound: Promise<RoundFigures> =
      this.#names?.serve(toServe) ?? memory.copyFrozen(this.#lastMemory, toServe);
    // Its failure is the dump's too, which is waited for first: CRIU must not go on writing to where nobody reads.
    lastRound.catch(() => shutdownSocket(pageSocket));
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
        watchedPaths,
        session,
        pageSocketIndex: 0,
        tracked: isTracked,
        onBegun: begun.resolve,
        // Until here the kernel still took packets in and acknowledged them: fewer are sent again later.
        onNetworkLock: () => {
          unplug(link);
          return Promise.resolve();
        },
        onDumped: async () => {
          // CRIU has thawed the cgroup and holds the tasks by tracing them: dying now, it would let them run.
          await runtime.cgroup.freeze(signal);
          await this.#sendRest({ lastRound, output });
        },
      });
    } catch (error) {
      means.sender.abort(told(reasonOf(error, signal, runtime, init)));
      throw error;
    } finally {
      // A CRIU that failed before its first page leaves the other end waiting.
      begun.resolve();
      shutdownSocket(pageSocket);
      await lastRound.catch(() => undefined);
    }
  }

  /** The memory is on its way: all else. */
  async #sendRest({ lastRound, output }: UnderWay): Promise<void> {
    const { files, inputs, link, means, memory, sentSoFar, writer } = this.#terms;
    const { progress, runtime } = inputs;
    const { chain, pilot, sender } = means;
    const { signal } = pilot;
    const round = await lastRound;
    const memoryBytes = round.pages * PAGE_BYTES;
    const ownMemoryBytes = runtime.cgroup.ownMemoryBytes() ?? 0;
    if (this.#isPostcopy && !sharesLittle(memoryBytes, ownMemoryBytes))
      throw new GodwitError(
        "refused",
        "its processes share much of their memory, which a post-copy would bring for each of them; use precopy",
      );
    const dumpedAt = performance.now();
    progress.figures({
      memoryBytes,
      rounds: memory.rounds + (this.#isPostcopy ? 1 : 0),
      freezeMs: this.#standingAt - this.#frozenAt,
      dumpMs: dumpedAt - this.#standingAt,
    });
    const { partial } = await output;
    await files.sendChange(signal);
    const log = await files.sendLog();
    correctTimers(`${runtime.paths.images}/files.img`);
    for (const file of await listImageFiles(runtime.paths.images))
      await writer.writeFile(`${runtime.paths.images}/${file.name}`, file);
    const description = this.#describe({ memoryBytes, ownMemoryBytes, log, partial });
    const sent = (word: "maybe" | "yes"): void => {
      inputs.setStatus(this.#frozen(word));
      if (word === "maybe") pilot.committed();
    };
    // Of a checkpoint they are the container's that goes on here.
    if (chain === undefined)
      for (const packet of link.stragglers.take()) await writer.write(RecordKind.PACKET, packet);
    await endImage(writer, sender, description, { signal, sent });
    chain?.copied({
      ledger: memory.ledger,
      trees: files.states,
      logOffset: log.endOffset,
      wholeBytes: memoryBytes + files.sizeBytes,
    });
    const nowMs = performance.now();
    pilot.sent(round, nowMs - this.#frozenAt);
    progress.figures({
      filesystemBytes: files.bytes,
      transferMs: nowMs - dumpedAt,
      ...sentSoFar(),
      blackoutMs: nowMs - this.#frozenAt,
    });
  }

  #describe({ log, memoryBytes, ownMemoryBytes, partial }: Described): CheckpointDescription {
    const { inputs, running } = this.#terms;
    const { host, record, runtime } = inputs;
    const { pid } = running.init;
    return CheckpointDescription.fromPartial({
      containerId: runtime.id,
      criuVersion: host.criuVersion,
      stdoutPipe: pipeOf(pid, 1),
      stderrPipe: pipeOf(pid, 2),
      externalMounts: providedIn(pid),
      memoryBytes,
      ownMemoryBytes,
      restarts: record.restarts,
      logStartOffset: log.startOffset,
      logOffset: log.endOffset,
      partialStdout: partial.o,
      partialStderr: partial.e,
      frozenAtMs: Date.now(),
    });
  }
}

interface Described {
  readonly log: { readonly startOffset: number; readonly endOffset: number };
  readonly memoryBytes: number;
  readonly ownMemoryBytes: number;
  /** Output of the container that is not a line yet. */
  readonly partial: { readonly o: string; readonly e: string };
}

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
