import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import {
  type DesiredAllocation,
  type MigrationOrder,
  MigrationPhase,
  Role,
} from "../../proto/gen/godwit/v1/agent.ts";
import type { RestoreOrder } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { restoreFromCheckpoint } from "../checkpoints/restore.ts";
import { PageFollowing } from "../migrate/page-following.ts";
import { MigrationProgress } from "../migrate/progress.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { mayHaveResumed } from "../checkpoint/resumption.ts";
import { receiveStopped } from "../migrate/cold-target.ts";
import {
  dropImage,
  isFilled,
  receiveFromSource,
  releaseNetwork,
  restoreAgain,
  stopFilling,
  type TargetInputs,
} from "../migrate/target.ts";
import { type InitProcess, lacksMemory } from "../model/record.ts";
import type { RecordedContainer } from "./container.ts";

/** A migration's end as a step of the target: what was ordered, and how it learns of the switch. */
export interface ArrivalOrder {
  readonly migrationId: string;
  readonly progress: MigrationProgress;
  readonly signal: AbortSignal;
  readonly switched: () => Promise<void>;
}

/** What cannot be restored in so many tries after the switch, never will be. */
const RESTORE_TRIES = 3;
const CLEAR_AGAIN_MS = 1_000;
/** For the leader to hear why. */
const ANEW_AFTER_MS = 1_000;

/** A container's coming to this host: received, restored, run, and its image removed when it has served. */
export class Arrival {
  readonly #container: RecordedContainer;
  /** Of what was given up, nothing is left but the record. */
  isCleared = false;
  /** Restores that failed in a row, after the switch. */
  #failures = 0;
  readonly #lifetime = new AbortController();
  #imageDrop: Promise<void> = Promise.resolve();
  /** Of a post-copy. */
  #following: PageFollowing | undefined;
  /** What is told of it; none after a restart of the agent. */
  #progress: MigrationProgress | undefined;
  #isLost = false;

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** Resolves when no image of an earlier arrival is in use or in the way any more. */
  get settled(): Promise<void> {
    return this.#imageDrop;
  }

  async receive(desired: DesiredAllocation, order: ArrivalOrder): Promise<void> {
    this.#container.begin(desired, { restarts: 0, health: desired.health });
    this.#failures = 0;
    this.#isLost = false;
    const { migration } = desired;
    try {
      if (migration === undefined) throw new GodwitError("internal", "a target without a migration");
      const following =
        migration.mode === MigrationMode.POSTCOPY ? this.#followingOf(migration, 0) : undefined;
      this.#following = following;
      const inputs = { ...this.#inputs(order), ...(following === undefined ? {} : { following }) };
      const receive = migration.mode === MigrationMode.COLD ? receiveStopped : receiveFromSource;
      this.#runs(await receive(inputs, migration), order.progress);
    } catch (error) {
      this.#container.logger.warn(
        { err: error, migration: order.migrationId },
        "the container could not be received",
      );
      // Nothing is deleted here: if the leader has switched already, the received image is all there is of the
      // container and is tried again; if not, the abort's order says to remove it.
      if (await this.adopt()) this.#tell(order.progress);
      else {
        await this.#endFollowing();
        order.progress.fail(GodwitError.from(error));
      }
    }
  }

  /**
   * From a checkpoint. Where its memory cannot be restored, the container is started with the files of that moment, as
   * after a power cut; where these cannot be read either, anew. Both are said.
   */
  async restore(desired: DesiredAllocation, order: RestoreOrder, signal: AbortSignal): Promise<void> {
    const { checkpointId } = order;
    const { id, logger, runtime } = this.#container;
    const past = { restarts: 0, health: desired.health };
    this.#container.begin(desired, past);
    const progress = new MigrationProgress(
      checkpointId,
      id,
      Role.OWNER,
      MigrationPhase.PREPARING,
      () => undefined,
    );
    const switched = (): Promise<void> => Promise.resolve();
    try {
      const inputs = this.#inputs({ migrationId: checkpointId, progress, signal, switched });
      this.#runs(await restoreFromCheckpoint(inputs, order), undefined);
    } catch (error) {
      if (await this.adopt()) return;
      const failure = GodwitError.from(error);
      // What is half made is removed, and then it is tried again.
      if (signal.aborted || failure.retryable) throw error;
      logger.error({ err: error, checkpoint: checkpointId }, "a checkpoint could not be restored");
      const { status } = this.#container;
      const hasFiles = status?.kind === "restoring" && status.stage === "received";
      await (hasFiles ? runtime.tearDown() : runtime.remove());
      this.#container.begin(desired, past);
      await runtime.makeFolders();
      this.#container.found({
        kind: "stopped",
        exitCode: 127,
        failed: true,
        message: `it is started ${hasFiles ? "with its files of then alone" : "anew"}: checkpoint ${checkpointId} could not be restored: ${failure.message}`,
        startAtMs: Date.now() + ANEW_AFTER_MS,
      });
    }
  }

  #followingOf(order: MigrationOrder, session: number): PageFollowing {
    const { host, runtime, changed } = this.#container;
    return new PageFollowing({ host, runtime, order, changed }, session);
  }

  async #endFollowing(): Promise<void> {
    const following = this.#following;
    this.#following = undefined;
    await following?.[Symbol.asyncDispose]();
  }

  /** That it runs: with all of its memory, or not yet. */
  #tell(progress: MigrationProgress): void {
    const { status } = this.#container;
    const isFilling = lacksMemory(status);
    if (isFilling) this.#progress = progress;
    progress.enter(isFilling ? MigrationPhase.FILLING : MigrationPhase.RUNNING);
  }

  get pageSession(): number {
    return this.#following?.session ?? 0;
  }

  /**
   * Sees to it that memory that is still at the source of a post-copy comes, after a restart of this agent too. An order
   * that does not name the migration any more says that it never will: the container cannot go on.
   */
  follow(desired: DesiredAllocation | undefined): void {
    const { record, status } = this.#container;
    // Of a restore that nobody has watched to its end, too: its tasks may wait for a page before they run.
    const isBeginning = status?.kind === "restoring" && status.stage === "ran";
    if ((status?.kind !== "running" && !isBeginning) || status.following === undefined) return;
    if (desired?.role !== Role.OWNER || desired.epoch !== record?.epoch) return;
    const { migrationId, from } = status.following;
    const order = desired.migration;
    if (order?.id !== migrationId) {
      if (!isBeginning) this.#lose(from);
    } else if (this.#following === undefined) {
      this.#following = this.#followingOf(order, Date.now());
      this.#following.begin();
      this.#following.containerRuns();
      this.#container.changed();
    }
  }

  #lose(from: string): void {
    if (this.#isLost) return;
    this.#isLost = true;
    this.#container.endedBecause = `killed: ${from} is gone for good, and with it memory that had not followed after the move`;
    this.#container.logger.error({ why: this.#container.endedBecause }, "the container is ended");
    const { runtime } = this.#container;
    void (async () => {
      try {
        await runtime.cgroup.killAll();
        stopFilling(runtime);
      } catch (error) {
        this.#isLost = false; // the next order tries again
        this.#container.logger.error(
          { err: error },
          "a container without all of its memory could not be ended",
        );
      }
    })();
  }

  /** After a crash or a failure behind the switch, from the image that was received whole. */
  async resume(order: ArrivalOrder): Promise<void> {
    const { status } = this.#container;
    if (status?.kind !== "restoring" || status.description === undefined) return;
    // It may run already, and only taking it over has failed.
    if (status.stage === "ran" && (await this.adopt())) {
      this.#tell(order.progress);
      return;
    }
    if (status.following !== undefined) {
      // Nothing of it has run, and the source has all of it: nothing is lost when it goes on there.
      await this.#giveUp(
        order,
        "it was cut off before the container ran, and most of its memory had not come",
      );
      return;
    }
    try {
      this.#runs(await restoreAgain(this.#inputs(order), status.description), order.progress);
    } catch (error) {
      if (await this.adopt()) {
        this.#tell(order.progress);
        return;
      }
      this.#failures += 1;
      const failure = GodwitError.from(error);
      if (order.signal.aborted || this.#failures < RESTORE_TRIES) throw error;
      await this.#giveUp(order, failure.message);
    }
  }

  /**
   * None of the container has run here. From the moment that the record says so, none ever will, and the source may
   * have its frozen copy back.
   */
  async #giveUp({ migrationId, progress }: ArrivalOrder, failure: string): Promise<void> {
    this.#container.logger.error({ migration: migrationId, failure }, "the container is given back");
    this.#container.setStatus({ kind: "restoring", migrationId, stage: "given-up", failure });
    await this.#endFollowing();
    await this.#clear();
    progress.giveUp(failure);
  }

  /** Its address above all has to go: the source is about to announce it. Only then is it told. */
  async #clear(): Promise<void> {
    while (!this.#lifetime.signal.aborted) {
      try {
        await this.#container.runtime.tearDown();
        this.isCleared = true;
        this.#container.changed();
        return;
      } catch (error) {
        this.#container.logger.error({ err: error }, "what was given up cannot be taken away yet");
        await delay(CLEAR_AGAIN_MS, undefined, { ref: false });
      }
    }
  }

  /**
   * Settles what a restore that was cut off has left: answers true when the container runs, and makes the record
   * say that it does; otherwise none of it has run, and the record says that the image is here.
   */
  async adopt(): Promise<boolean> {
    const { status, runtime, record, host, id } = this.#container;
    if (status?.kind === "restoring" && status.stage === "given-up") await this.#clear();
    if (status?.kind !== "restoring" || status.stage !== "ran" || record === undefined) return false;
    const { init } = status;
    if (
      init !== undefined &&
      (await mayHaveResumed(runtime.paths.images, () => runtime.cgroup.processes()))
    ) {
      if (runtime.isRunning(init)) {
        // CRIU may have gone on alone from before that.
        (await runtime.plug(record)).plugIn();
        await host.runc.adoptInit(id, init.pid, init.startTicks, runtime.paths.rootfs);
        runtime.cgroup.applyLimits(record.spec.limits);
        await runtime.reattachOutput(init);
      }
      this.#runs(init, undefined);
      return true;
    }
    // CRIU came to its end before, and what it has built waits for it.
    this.#container.setStatus({ kind: "restoring", migrationId: status.migrationId, stage: "received" });
    return false;
  }

  /** In the background: a restored container runs while its memory is still being filled from the image. Idempotent. */
  dropImage(): void {
    this.#imageDrop = this.#settleImage().catch((error: unknown) => {
      if (this.#lifetime.signal.aborted) return;
      this.#container.logger.warn({ err: error }, "a checkpoint image could not be removed");
    });
  }

  async #settleImage(): Promise<void> {
    const { runtime, logger } = this.#container;
    await releaseNetwork(runtime);
    if (!(await isFilled(runtime, this.#lifetime.signal)) && !this.#isLost) {
      // It has not read a wrong byte, for somebody still holds what the missing pages wait at; it never can go on.
      this.#container.endedBecause =
        "killed: what filled its memory after the move died before it was done, and what was missing is lost";
      logger.error({ why: this.#container.endedBecause }, "the container is ended");
      await runtime.cgroup.killAll();
    }
    await this.#endFollowing();
    // Only the image's folder says that the container has run, as long as its record does not.
    await this.#container.recorded(this.#lifetime.signal);
    await dropImage(runtime);
    this.#isWhole();
  }

  /** All of its memory is in place, or never will be: nothing more is wanted of the source. */
  #isWhole(): void {
    const { status } = this.#container;
    if (lacksMemory(status)) {
      const { kind, init, startedAtMs } = status;
      this.#container.found({ kind, init, startedAtMs });
    }
    this.#progress?.enter(MigrationPhase.RUNNING);
    this.#progress = undefined;
  }

  async close(): Promise<void> {
    this.#lifetime.abort();
    await this.#endFollowing();
  }

  #runs(init: InitProcess, progress: MigrationProgress | undefined): void {
    const { status } = this.#container;
    const following = status?.kind === "restoring" ? status.following : undefined;
    this.#container.found({
      kind: "running",
      init,
      startedAtMs: Date.now(),
      ...(following === undefined ? {} : { following }),
    });
    this.#following?.containerRuns();
    if (progress !== undefined) this.#tell(progress);
    this.dropImage();
  }

  #inputs({ migrationId, progress, signal, switched }: ArrivalOrder): TargetInputs {
    const { host, runtime, record } = this.#container;
    if (record === undefined) throw new GodwitError("internal", "a restore without a record");
    const setStatus: TargetInputs["setStatus"] = (status) => this.#container.setStatus(status);
    return { host, runtime, record, migrationId, signal, progress, switched, setStatus };
  }
}
