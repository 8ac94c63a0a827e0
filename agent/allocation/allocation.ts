import { setTimeout as delay } from "node:timers/promises";

import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import {
  type DesiredAllocation,
  type MigrationReport,
  MigrationPhase,
  type ObservedAllocation,
  Role,
} from "../../proto/gen/godwit/v1/agent.ts";
import { ContainerSpec, Image } from "../../proto/gen/godwit/v1/spec.ts";
import { readRecord, writeRecord } from "../container/record-store.ts";
import { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import { MigrationProgress } from "../migrate/progress.ts";
import { copyToTarget, thaw } from "../migrate/source.ts";
import { dropImage, receiveFromSource, restoreAgain } from "../migrate/target.ts";
import { interruption, nextStep, type Step } from "../model/next-step.ts";
import type { ContainerRecord, InitProcess, RecordStatus } from "../model/record.ts";
import { RECOVERED_AFTER_MS, restartDelayMs } from "../model/restart-policy.ts";
import { observe } from "./observe.ts";

/** A step that failed for a reason that may pass is tried again after this. */
const RETRY_MS = 1_000;

/**
 * One container on this host: compares what is wanted with what is, and takes one step at a time until they
 * agree. What it knows is in its record, so that the next agent on this host can go on from there.
 */
export class Allocation {
  readonly id: string;
  readonly runtime: ContainerRuntime;
  readonly #host: Host;
  readonly #logger: Logger;
  /** Something to report has changed. */
  readonly #changed: () => void;
  readonly #leaves: (reason: "moved" | "removed") => Promise<void>;
  #desired: DesiredAllocation | undefined;
  /** Until the leader has spoken once, an agent that has just started touches nothing that runs. */
  #ordered = false;
  #record: ContainerRecord | undefined;
  #migration: MigrationProgress | undefined;
  #step: Step = { kind: "none" };
  #stepAbort = new AbortController();
  #commit: PromiseWithResolvers<void> = Promise.withResolvers();
  #recentRestarts = 0;
  #wake: PromiseWithResolvers<void> = Promise.withResolvers();
  #closed = false;
  readonly #lifetime = new AbortController();
  #imageDrop: Promise<void> = Promise.resolve();
  readonly #loop: Promise<void>;

  constructor(
    host: Host,
    id: string,
    listeners: {
      readonly changed: () => void;
      readonly leaves: (reason: "moved" | "removed") => Promise<void>;
    },
  ) {
    this.#host = host;
    this.id = id;
    this.#changed = listeners.changed;
    this.#leaves = listeners.leaves;
    this.#logger = host.logger.child({ container: id });
    this.runtime = new ContainerRuntime(host, id);
    this.#record = readRecord(host.config, id);
    this.#loop = this.#run();
  }

  get record(): ContainerRecord | undefined {
    return this.#record;
  }

  /** Nothing of it is here and nothing is wanted. */
  get isGone(): boolean {
    return this.#record === undefined && this.#desired === undefined && this.#step.kind === "none";
  }

  setDesired(desired: DesiredAllocation | undefined): void {
    this.#desired = desired;
    if (!this.#ordered) this.#failUnfinished();
    this.#ordered = true;
    const word = interruption(this.#step, desired);
    if (word === "commit") this.#commit.resolve();
    if (word === "abort" && !this.#stepAbort.signal.aborted) {
      const reason = new GodwitError("cancelled", "the cluster no longer wants this step");
      this.#stepAbort.abort(reason);
      this.#commit.promise.catch(() => undefined);
      this.#commit.reject(reason);
    }
    if (this.#migration !== undefined && desired?.migration?.id !== this.#migration.id)
      this.#migration = undefined;
    this.#wakeUp();
  }

  /** A stream does not outlive the agent that held its end: a move that was under way then cannot go on. */
  #failUnfinished(): void {
    const order = this.#desired?.migration;
    const status = this.#record?.status;
    if (order === undefined || status === undefined) return;
    if (
      this.#desired?.role === Role.TARGET &&
      status.kind === "restoring" &&
      status.migrationId === order.id
    ) {
      this.#report(order.id, Role.TARGET, MigrationPhase.RECEIVING).fail(
        "the target's agent restarted during the move",
      );
    }
    if (this.#desired?.role === Role.SOURCE && status.kind === "running" && order.copy) {
      this.#report(order.id, Role.SOURCE, MigrationPhase.COPYING).fail(
        "the source's agent restarted during the move",
      );
    }
  }

  /** The shim has seen the first process of the container end. */
  onExit(initPid: number, exitCode: number): void {
    const status = this.#record?.status;
    if (status === undefined || !("init" in status) || status.init?.pid !== initPid) return;
    this.#exits.set(initPid, exitCode);
    this.#wakeUp();
  }

  readonly #exits = new Map<number, number>();

  /** Looks whether the container still lives; cheap, called regularly. */
  check(): void {
    const status = this.#record?.status;
    if (status?.kind === "running" && !this.runtime.isRunning(status.init)) this.#wakeUp();
  }

  observed(): ObservedAllocation | undefined {
    return this.#record === undefined ? undefined : observe(this.#record, this.runtime.cgroup, this.#step);
  }

  migrationReport(): MigrationReport | undefined {
    const order = this.#desired?.migration;
    if (this.#desired?.role === Role.RELEASED && order !== undefined && this.#record === undefined) {
      const released = new MigrationProgress(
        order.id,
        this.id,
        Role.RELEASED,
        MigrationPhase.RELEASED,
        () => undefined,
      ).report();
      // What it measured as the source belongs to the account of the whole.
      return { ...released, figures: this.#migration?.report().figures };
    }
    if (this.#migration !== undefined) return this.#migration.report();
    // After a crash between the switch and this report, the record alone tells that the container runs here.
    if (
      this.#desired?.role === Role.OWNER &&
      order?.switched === true &&
      this.#record?.status.kind === "running"
    ) {
      return new MigrationProgress(
        order.id,
        this.id,
        Role.TARGET,
        MigrationPhase.RUNNING,
        () => undefined,
      ).report();
    }
    return undefined;
  }

  /** Stops the loop; the container goes on. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#lifetime.abort();
    this.#stepAbort.abort(new GodwitError("cancelled", "the agent stops"));
    this.#commit.promise.catch(() => undefined);
    this.#commit.reject(new GodwitError("cancelled", "the agent stops"));
    this.#wakeUp();
    await this.#loop;
  }

  #wakeUp(): void {
    this.#wake.resolve();
  }

  async #run(): Promise<void> {
    await this.#adopt();
    while (!this.#closed) {
      this.#wake = Promise.withResolvers();
      try {
        await this.#noticeExit();
        const step = this.#nextStep();
        if (step.kind === "none") {
          await this.#wake.promise;
          continue;
        }
        if (step.kind === "wait") {
          await Promise.race([
            this.#wake.promise,
            delay(Math.max(1, step.untilMs - Date.now()), undefined, { ref: false }),
          ]);
          continue;
        }
        this.#begin(step);
        await this.#take(step);
      } catch (error) {
        this.#logger.warn({ err: error, step: this.#step.kind }, "a step failed and is tried again");
        // Only news from now on cut the pause short.
        this.#wake = Promise.withResolvers();
        await Promise.race([this.#wake.promise, delay(RETRY_MS, undefined, { ref: false })]);
      } finally {
        this.#step = { kind: "none" };
        this.#changed();
      }
    }
  }

  #nextStep(): Step {
    if (!this.#ordered) {
      const status = this.#record?.status;
      return status?.kind === "frozen" && status.sent === "no" ? { kind: "thaw" } : { kind: "none" };
    }
    return nextStep(this.#desired, {
      record: this.#record,
      failedMigrations: new Set(this.#migration?.failed === true ? [this.#migration.id] : []),
      nowMs: Date.now(),
    });
  }

  #begin(step: Step): void {
    this.#step = step;
    this.#stepAbort = new AbortController();
    this.#commit = Promise.withResolvers();
    this.#commit.promise.catch(() => undefined);
    this.#logger.info({ step: step.kind }, "step");
    // The desired state may have changed since nextStep looked at it.
    if (this.#ordered) this.setDesired(this.#desired);
  }

  async #take(step: Step): Promise<void> {
    switch (step.kind) {
      case "start":
        return await this.#start();
      case "stop":
        return await this.#stop();
      case "remove":
        return await this.#remove();
      case "copy":
        return await this.#copy(step.migrationId);
      case "thaw":
        return await this.#thaw();
      case "receive":
        return await this.#receive(step.migrationId);
      case "resume":
        return await this.#resume(step.migrationId);
      case "none":
      case "wait":
        return;
    }
  }

  /** Takes over what an earlier agent of this host left running. */
  async #adopt(): Promise<void> {
    const status = this.#record?.status;
    try {
      if (status?.kind === "running" && this.runtime.isRunning(status.init)) {
        await this.runtime.reattachOutput(status.init);
        // A thaw that was cut off between its steps: nothing that is said to run may stand frozen.
        if (this.runtime.cgroup.isFrozen()) this.runtime.cgroup.thaw();
        this.#dropImage();
      } else if (status?.kind === "restoring" && status.stage === "ran" && status.init !== undefined) {
        await this.#adoptRestored(status.init);
      }
    } catch (error) {
      this.#logger.error({ err: error }, "a container could not be taken over in full");
    }
    this.#changed();
  }

  /** CRIU had been told to let the container run when the earlier agent died. */
  async #adoptRestored(init: InitProcess): Promise<void> {
    if (this.#record === undefined) return;
    if (!this.runtime.isRunning(init)) {
      // CRIU undid its work because nobody answered it; had the container run, its exit would be on record.
      const exit = (await this.#host.shim.status()).find(({ container }) => container === this.id)?.exit;
      if (exit === undefined) this.#downgradeToReceived();
      else this.#setStatus({ kind: "running", init, startedAtMs: Date.now() });
      return;
    }
    await this.#host.runc.adoptInit(this.id, init.pid, init.startTicks, this.runtime.paths.rootfs);
    this.runtime.cgroup.applyLimits(this.#record.spec.limits);
    await this.runtime.reattachOutput(init);
    this.#setStatus({ kind: "running", init, startedAtMs: Date.now() });
    this.#dropImage();
  }

  /** In the background: a restored container runs while its memory is still being filled from the image. */
  #dropImage(): void {
    this.#imageDrop = dropImage(this.runtime, this.#lifetime.signal).catch((error: unknown) => {
      if (!this.#closed) this.#logger.warn({ err: error }, "a checkpoint image could not be removed");
    });
  }

  #downgradeToReceived(): void {
    const status = this.#record?.status;
    if (status?.kind !== "restoring" || status.stage !== "ran") return;
    this.#setStatus({
      kind: "restoring",
      migrationId: status.migrationId,
      stage: "received",
      ...(status.description === undefined ? {} : { description: status.description }),
    });
  }

  async #noticeExit(): Promise<void> {
    const status = this.#record?.status;
    if (status?.kind !== "running" && status?.kind !== "frozen") return;
    if (this.runtime.isRunning(status.init)) return;
    const recorded = (await this.#host.shim.status()).find(({ container }) => container === this.id);
    const exitCode =
      this.#exits.get(status.init.pid) ??
      (recorded?.initPid === status.init.pid ? recorded.exit?.code : undefined) ??
      -1;
    const outOfMemory = this.runtime.cgroup.outOfMemoryKills() > 0;
    this.#exits.clear();
    await this.runtime.tearDown();
    if (Date.now() - status.startedAtMs > RECOVERED_AFTER_MS) this.#recentRestarts = 0;
    this.#setStatus({
      kind: "stopped",
      exitCode,
      failed: false,
      message: outOfMemory ? "killed: out of its memory limit" : exitCode === -1 ? "ended unseen" : "",
      startAtMs: Date.now() + restartDelayMs(this.#recentRestarts),
    });
  }

  async #start(): Promise<void> {
    const desired = this.#wanted();
    const previous = this.#record;
    const again = previous !== undefined && previous.status.kind === "stopped";
    this.#record = {
      ...recordOf(desired),
      restarts: (previous?.restarts ?? 0) + (again ? 1 : 0),
    };
    if (again) this.#recentRestarts += 1;
    await this.runtime.makeFolders();
    this.#setStatus({ kind: "starting" });
    try {
      const init = await this.runtime.start(this.#record, this.#stepAbort.signal);
      this.#setStatus({ kind: "running", init, startedAtMs: Date.now() });
    } catch (error) {
      if (this.#stepAbort.signal.aborted && this.#closed) return;
      const failure = GodwitError.from(error);
      this.#logger.warn({ err: failure }, "the container could not be started");
      await this.runtime.tearDown();
      this.#setStatus({
        kind: "stopped",
        exitCode: 127,
        failed: true,
        message: failure.message,
        startAtMs: Date.now() + restartDelayMs(this.#recentRestarts),
      });
    }
  }

  async #stop(): Promise<void> {
    const record = this.#record;
    if (record?.status.kind !== "running") return;
    const { init } = record.status;
    await this.runtime.stop(record, init, this.#stepAbort.signal);
    const recorded = (await this.#host.shim.status()).find(({ container }) => container === this.id);
    const exitCode = this.#exits.get(init.pid) ?? recorded?.exit?.code ?? 0;
    this.#exits.clear();
    this.#recentRestarts = 0;
    this.#setStatus({ kind: "stopped", exitCode, failed: false, message: "stopped", startAtMs: 0 });
  }

  async #remove(): Promise<void> {
    // Whoever follows its log gets the rest of it before it goes.
    await this.#leaves(this.#desired?.role === Role.RELEASED ? "moved" : "removed");
    await this.runtime.remove();
    this.#record = undefined;
    this.#exits.clear();
  }

  async #copy(migrationId: string): Promise<void> {
    const record = this.#record;
    const order = this.#desired?.migration;
    if (record === undefined || order === undefined) return;
    const progress = this.#report(migrationId, Role.SOURCE, MigrationPhase.COPYING);
    try {
      await this.#imageDrop;
      await copyToTarget({
        host: this.#host,
        runtime: this.runtime,
        record,
        order,
        signal: this.#stepAbort.signal,
        setStatus: (status) => this.#setStatus(status),
        progress,
      });
    } catch (error) {
      const status = this.#record?.status;
      this.#logger.warn({ err: error, migration: migrationId }, "the copy failed");
      // Only an image that was sent to its end can be restored elsewhere: otherwise it goes on here at once.
      if (status?.kind === "frozen" && status.sent === "no") await this.#thaw();
      progress.fail(GodwitError.from(error).message);
    }
  }

  async #thaw(): Promise<void> {
    const record = this.#record;
    if (record?.status.kind !== "frozen") return;
    const { migrationId, init, startedAtMs } = record.status;
    await thaw(this.runtime, record);
    this.#setStatus({ kind: "running", init, startedAtMs });
    // An agent that was restarted in the middle has lost the stream: the move cannot go on from here.
    if (
      this.#step.kind === "thaw" &&
      this.#desired?.migration?.id === migrationId &&
      this.#desired.role === Role.SOURCE
    ) {
      this.#report(migrationId, Role.SOURCE, MigrationPhase.COPYING).fail(
        "the source's agent restarted during the copy",
      );
    }
  }

  async #receive(migrationId: string): Promise<void> {
    this.#record = recordOf(this.#wanted());
    const progress = this.#report(migrationId, Role.TARGET, MigrationPhase.PREPARING);
    try {
      const init = await receiveFromSource(this.#targetInputs(migrationId, progress));
      this.#setStatus({ kind: "running", init, startedAtMs: Date.now() });
      progress.enter(MigrationPhase.RUNNING);
      this.#dropImage();
    } catch (error) {
      this.#logger.warn({ err: error, migration: migrationId }, "the container could not be received");
      // Nothing is deleted here: if the leader has switched already, the received image is all there is of the
      // container and is tried again; if not, the abort's order says to remove it.
      this.#downgradeToReceived();
      progress.fail(GodwitError.from(error).message);
    }
  }

  async #resume(migrationId: string): Promise<void> {
    const status = this.#record?.status;
    if (status?.kind !== "restoring" || status.description === undefined) return;
    const progress = this.#report(migrationId, Role.TARGET, MigrationPhase.RECEIVING);
    const init = await restoreAgain(this.#targetInputs(migrationId, progress), status.description);
    this.#setStatus({ kind: "running", init, startedAtMs: Date.now() });
    progress.enter(MigrationPhase.RUNNING);
    this.#dropImage();
  }

  #targetInputs(migrationId: string, progress: MigrationProgress): Parameters<typeof receiveFromSource>[0] {
    if (this.#record === undefined) throw new GodwitError("internal", "a restore without a record");
    return {
      host: this.#host,
      runtime: this.runtime,
      record: this.#record,
      migrationId,
      signal: this.#stepAbort.signal,
      setStatus: (status) => this.#setStatus(status),
      progress,
      switched: () => {
        const desired = this.#desired;
        if (desired?.role === Role.OWNER && desired.migration?.switched === true) return Promise.resolve();
        return this.#commit.promise;
      },
    };
  }

  #report(migrationId: string, role: Role, phase: MigrationPhase): MigrationProgress {
    this.#migration = new MigrationProgress(migrationId, this.id, role, phase, this.#changed);
    return this.#migration;
  }

  #wanted(): DesiredAllocation {
    if (this.#desired === undefined)
      throw new GodwitError("cancelled", "the container is no longer wanted here");
    return this.#desired;
  }

  #setStatus(status: RecordStatus): void {
    if (this.#record === undefined) throw new GodwitError("internal", "a status without a record");
    const kept =
      status.kind === "restoring" &&
      this.#record.status.kind === "restoring" &&
      status.description === undefined
        ? { ...status, ...descriptionOf(this.#record.status) }
        : status;
    this.#record = { ...this.#record, status: kept };
    writeRecord(this.#host.config, this.#record);
    this.#changed();
  }
}

function descriptionOf(status: RecordStatus): { description?: string } {
  return status.kind === "restoring" && status.description !== undefined
    ? { description: status.description }
    : {};
}

function recordOf(desired: DesiredAllocation): ContainerRecord {
  return {
    containerId: desired.containerId,
    epoch: desired.epoch,
    spec: desired.spec ?? ContainerSpec.fromPartial({}),
    image: desired.image ?? Image.fromPartial({}),
    address: desired.address,
    mac: desired.mac,
    restartGeneration: desired.restartGeneration,
    restarts: 0,
    status: { kind: "starting" },
  };
}
