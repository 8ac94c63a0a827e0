import { GodwitError } from "../../proto/contract/error.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { inspect } from "../obstacles/inspect.ts";
import { WriteTracker } from "../tracking/write-tracker.ts";
import type { CopyMeans, RunningStatus, SourceInputs } from "./copy-terms.ts";
import { FilesCopy } from "./files-copy.ts";
import { MemoryRounds } from "./memory-rounds.ts";
import { takeOffer } from "./offer.ts";
import { RecordWriter } from "./record-writer.ts";
import { StandingCopy } from "./standing-copy.ts";
import { WaitingDump } from "./waiting-dump.ts";

/** Exec sessions get this long to end by themselves before the freeze. */
const EXEC_GRACE_MS = 2_000;
/** Rounds for processes that were forked meanwhile, at most: some programs fork all the time. */
const LATE_ROUNDS = 2;
/** Who has waited for less has written less than another round takes. */
const WORTH_A_ROUND_MS = 20;

/**
 * Brings all of a container to the other end: first while it runs, then what has changed since, while it stands still.
 * Answers the grip on its memory by which its writes were known: letting go of gigabytes takes time, which is there when
 * the container runs again, or is gone.
 */
export async function copyThrough(
  means: CopyMeans,
  running: RunningStatus,
  inputs: Omit<SourceInputs, "sampler">,
): Promise<Disposable> {
  const { chain, pilot, recording, sender } = means;
  const { host, order, progress, record, runtime } = inputs;
  const { signal } = pilot;
  await using undo = new AsyncDisposableStack();
  const writer = new RecordWriter(sender);
  const waitingDump = undo.use(await WaitingDump.start(host));
  await refuseObstacles(running.init.pid, inputs);
  pilot.follow(sender);
  using grip = new DisposableStack();
  const tracker = grip.use(new WriteTracker(host.writeTracking, host.logger));
  const plug = await runtime.plug(record);
  let standing: StandingCopy | undefined;
  const stragglers = await plug.openStragglers(chain !== undefined);
  undo.defer(() => {
    if (standing?.hasBegun !== true) plug.dropStragglers();
  });

  const files = new FilesCopy(runtime, writer, chain?.base, chain !== undefined);
  await files.sendAll(signal);
  await sender.drain();
  const isOffered = sender.offersPages && order.mode !== MigrationMode.POSTCOPY;
  const offer = isOffered ? await takeOffer(host, order, signal) : undefined;
  progress.figures({ filesystemBytes: files.bytes, sentBytes: sender.sentBytes });
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
  const rounds = new RunningRounds(memory, means, inputs, sentSoFar);
  await rounds.copy();
  using turn = await host.turns.toStandStill.take(signal);
  if (turn.waitedMs > WORTH_A_ROUND_MS) await rounds.catchUp(turn.waitedMs);
  await recording?.close();
  await host.exec().quiesce(runtime.id, EXEC_GRACE_MS, inputs.farewell ?? farewellTo(order.peerNode));
  undo.defer(() => host.exec().admit(runtime.id));
  // Nobody has to wait for that while the container stands still.
  await host.shim.reads(runtime.id, signal);
  signal.throwIfAborted();

  const link = { plug, stragglers };
  standing = new StandingCopy({
    means,
    inputs,
    running,
    writer,
    waitingDump,
    link,
    files,
    memory,
    sentSoFar,
  });
  await standing.send();
  return grip.move();
}

const farewellTo = (node: string): string => `the container moves to ${node}`;

/** What it has opened since it was looked at last is found here, before anything is copied. */
async function refuseObstacles(initPid: number, { runtime }: Pick<SourceInputs, "runtime">): Promise<void> {
  const [obstacle] = (
    await inspect({
      initPid,
      pids: runtime.cgroup.processes(),
      watchedPaths: runtime.watchedPaths,
    })
  ).blockers;
  if (obstacle !== undefined) throw new GodwitError("refused", obstacle.reason);
}

/** Its memory, round by round. */
class RunningRounds {
  readonly #memory: MemoryRounds;
  readonly #means: CopyMeans;
  readonly #inputs: Pick<SourceInputs, "host" | "order" | "progress" | "runtime">;
  readonly #sentSoFar: () => { sentBytes: number; reusedBytes: number };
  /** Rounds for what began after the one before had looked; it would be sent whole while the container stands still. */
  #late = 0;

  constructor(
    memory: MemoryRounds,
    means: CopyMeans,
    inputs: Pick<SourceInputs, "host" | "order" | "progress" | "runtime">,
    sentSoFar: () => { sentBytes: number; reusedBytes: number },
  ) {
    this.#memory = memory;
    this.#means = means;
    this.#inputs = inputs;
    this.#sentSoFar = sentSoFar;
  }

  /** Until there is little to gain by another. */
  async copy(): Promise<void> {
    while (this.#means.pilot.goesOn() || this.#hasMissed()) await this.#round();
    await this.#means.sender.drain();
  }

  /** Others had to be waited for, and it has written on meanwhile. */
  async catchUp(waitedMs: number): Promise<void> {
    const { host, order } = this.#inputs;
    host.logger.info({ migration: order.id, waitedMs }, "waited for others that stood still");
    if (this.#memory.rounds === 0) return;
    await this.#round();
    await this.copy();
  }

  async #round(): Promise<void> {
    const { pilot, sender } = this.#means;
    const { progress, runtime } = this.#inputs;
    const beganAt = performance.now();
    const round = await this.#memory.copyRunning(runtime.cgroup.processes(), pilot.signal);
    // What is still on its way would be in the way of what is sent while the container stands still.
    await sender.drain();
    pilot.add({ ...round, tookMs: performance.now() - beganAt });
    progress.figures({ rounds: this.#memory.rounds, ...this.#sentSoFar() });
  }

  #hasMissed(): boolean {
    if (!this.#memory.hasMissed([...this.#inputs.runtime.cgroup.processes()])) return false;
    this.#late += 1;
    return this.#late <= LATE_ROUNDS;
  }
}
