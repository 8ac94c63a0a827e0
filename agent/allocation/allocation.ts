import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import {
  type DesiredAllocation,
  type MigrationReport,
  MigrationPhase,
  type ObservedAllocation,
  Role,
} from "../../proto/gen/godwit/v1/agent.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import type { CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { CONTAINER_GONE_SUBJECT } from "../../proto/contract/subjects.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import { HealthMonitor } from "../health/monitor.ts";
import type { Host } from "../host.ts";
import { MigrationProgress } from "../migrate/progress.ts";
import { thaw } from "../migrate/thaw.ts";
import { belongsHere, interruption, nextStep, restartInMs, type Step } from "../model/next-step.ts";
import type { ContainerRecord } from "../model/record.ts";
import type { Findings } from "../obstacles/inspect.ts";
import { Arrival, type ArrivalOrder } from "./arrival.ts";
import { Checkpointing } from "./checkpointing.ts";
import { RecordedContainer } from "./container.ts";
import { Departure } from "./departure.ts";
import { Life } from "./life.ts";
import { observe } from "./observe.ts";
import { releasedReport, settledReport } from "./settled.ts";

/** A step that failed for a reason that may pass is tried again after this. */
const RETRY_MS = 1_000;

/**
 * One container on this host: compares what is wanted with what is, and takes one step at a time until they
 * agree. What it knows is in its record, so that the next agent on this host can go on from there.
 */
export class Allocation {
  readonly #container: RecordedContainer;
  readonly #life: Life;
  readonly #health: HealthMonitor;
  readonly #arrival: Arrival;
  readonly #departure: Departure;
  readonly #checkpointing: Checkpointing;
  readonly #leaves: (reason: "moved" | "removed") => Promise<void>;
  #desired: DesiredAllocation | undefined;
  /** Until the leader has spoken once, an agent that has just started touches nothing that runs. */
  #ordered = false;
  #migration: MigrationProgress | undefined;
  #step: Step = { kind: "none" };
  #stepAbort = new AbortController();
  #commit: PromiseWithResolvers<void> = Promise.withResolvers();
  #wake: PromiseWithResolvers<void> = Promise.withResolvers();
  #closed = false;
  readonly #loop: Promise<void>;

  constructor(
    host: Host,
    id: string,
    listeners: {
      readonly changed: () => void;
      readonly leaves: (reason: "moved" | "removed") => Promise<void>;
    },
  ) {
    this.#leaves = listeners.leaves;
    this.#container = new RecordedContainer(host, id, () => {
      this.#health.follow();
      listeners.changed();
    });
    this.#health = new HealthMonitor(this.#container, () => this.#wakeUp());
    this.#life = new Life(this.#container);
    this.#arrival = new Arrival(this.#container);
    this.#departure = new Departure(this.#container);
    this.#checkpointing = new Checkpointing(this.#container);
    this.#loop = this.#run();
  }

  get id(): string {
    return this.#container.id;
  }

  get runtime(): ContainerRuntime {
    return this.#container.runtime;
  }

  get record(): ContainerRecord | undefined {
    return this.#container.record;
  }

  /** Nothing of it is here and nothing is wanted. */
  get isGone(): boolean {
    return this.#container.record === undefined && this.#desired === undefined && this.#step.kind === "none";
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
    this.#departure.expect(desired?.role === Role.SOURCE ? desired.migration : undefined);
    this.#checkpointing.expect(desired?.checkpoint);
    this.#arrival.follow(desired);
    if (this.#step.kind !== "copy") this.#serve();
    this.#wakeUp();
  }

  /** Of a post-copy, the target asks the frozen container for its memory. */
  #serve(): void {
    const order = this.#desired?.role === Role.SOURCE ? this.#desired.migration : undefined;
    if (!this.#departure.servesFor(order)) return;
    this.#departure.serve(
      order,
      () => this.#migration ?? this.#report(order.id, Role.SOURCE, MigrationPhase.DUMPED),
    );
  }

  /** A stream does not outlive the agent that held its end: a move that was under way then cannot go on. */
  #failUnfinished(): void {
    const order = this.#desired?.migration;
    const status = this.#container.record?.status;
    if (order === undefined || status === undefined) return;
    if (
      this.#desired?.role === Role.TARGET &&
      status.kind === "restoring" &&
      status.migrationId === order.id
    ) {
      this.#report(order.id, Role.TARGET, MigrationPhase.RECEIVING).fail(
        new GodwitError("unavailable", "the target's agent restarted during the move"),
      );
    }
    // One that was frozen and sent nothing is thawed first; of one that was sent to its end the target speaks.
    const mayLackItsEnd = status.kind === "frozen" && status.sent === "maybe" && !order.switched;
    const isHalted = status.kind === "halted" && status.sent !== "yes" && !order.switched;
    const isCutOff = (status.kind === "running" && order.copy) || mayLackItsEnd || isHalted;
    if (this.#desired?.role === Role.SOURCE && isCutOff) {
      this.#report(order.id, Role.SOURCE, MigrationPhase.COPYING).fail(
        new GodwitError("unavailable", "the source's agent restarted during the move"),
      );
    }
  }

  /** The shim has seen the first process of the container end. */
  onExit(initPid: number, exitCode: number): void {
    if (this.#life.onExit(initPid, exitCode)) this.#wakeUp();
  }

  /** Looks whether the container still lives; cheap, called regularly. */
  check(): void {
    const status = this.#container.record?.status;
    const isNeeded =
      status?.kind === "running" ||
      (status?.kind === "frozen" && this.#departure.servesFor(this.#desired?.migration));
    if (isNeeded && !this.runtime.isRunning(status.init)) this.#wakeUp();
  }

  /** The first process of a container that runs and is not about to be frozen. */
  get livingInit(): number | undefined {
    const { status } = this.#container;
    return status?.kind === "running" && this.#step.kind !== "copy" && this.#step.kind !== "checkpoint"
      ? status.init.pid
      : undefined;
  }

  observed(
    findingsOf: (id: string, initPid: number) => Findings | undefined,
  ): ObservedAllocation | undefined {
    const { record } = this.#container;
    if (record === undefined) return undefined;
    const { status } = record;
    const findings = status.kind === "running" ? findingsOf(this.id, status.init.pid) : undefined;
    return {
      ...observe(record, this.runtime.cgroup, this.#step, findings),
      healthOutput: status.kind === "running" ? this.#health.output : "",
      restartInMs: restartInMs(record, this.#desired, Date.now()),
    };
  }

  get checkpointReport(): CheckpointReport | undefined {
    return this.#checkpointing.report;
  }

  migrationReport(): MigrationReport | undefined {
    const order = this.#desired?.migration;
    const { record } = this.#container;
    if (this.#desired?.role === Role.RELEASED && order !== undefined && record === undefined)
      return releasedReport(order, this.id, this.#migration?.report());
    const isOwner = this.#desired?.role === Role.OWNER && order?.switched === true;
    const report =
      this.#migration?.report() ??
      (isOwner ? settledReport(order, this.id, record?.status, this.#arrival.isCleared) : undefined);
    return report === undefined ? undefined : { ...report, pageSession: this.#arrival.pageSession };
  }

  /** Stops the loop; the container goes on. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#departure[Symbol.dispose]();
    this.#checkpointing[Symbol.dispose]();
    this.#stepAbort.abort(new GodwitError("cancelled", "the agent stops"));
    this.#commit.promise.catch(() => undefined);
    this.#commit.reject(new GodwitError("cancelled", "the agent stops"));
    this.#wakeUp();
    await Promise.all([this.#arrival.close(), this.#departure.endService(), this.#health.close()]);
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
        await this.#life.noticeExit();
        this.#thawIfHeld();
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
        this.#container.logger.warn(
          { err: error, step: this.#step.kind },
          "a step failed and is tried again",
        );
        // Only news from now on cut the pause short.
        this.#wake = Promise.withResolvers();
        await Promise.race([this.#wake.promise, delay(RETRY_MS, undefined, { ref: false })]);
      } finally {
        this.#step = { kind: "none" };
        this.#container.changed();
      }
    }
  }

  get #isOurs(): boolean {
    return belongsHere(this.#desired, this.#container.record);
  }

  /** The host's fence is about to be lifted: what is somebody else's by now is not to answer to anybody. */
  async unplugUnlessOurs(): Promise<void> {
    const { record } = this.#container;
    if (this.#isOurs || record === undefined || record.status.kind === "stopped") return;
    try {
      (await this.runtime.plug(record)).unplug();
    } catch (error) {
      this.#container.logger.info({ err: error }, "the container had no link to take away");
    }
  }

  /** The host's fence has been lifted. */
  goOn(): void {
    const isCopied = this.#step.kind === "copy" || this.#step.kind === "checkpoint";
    if (isCopied && this.#container.status?.kind === "running")
      this.#stepAbort.abort(new GodwitError("unavailable", "the host's lease ended during the move"));
    // What is frozen for a move is thawed by its step or by nobody.
    else if (this.#isOurs && !isCopied && this.#container.status?.kind !== "frozen")
      this.runtime.cgroup.thaw();
    this.#wakeUp();
  }

  /** Of a fence that was lifted, or of a thaw, by an agent that died over it. */
  #thawIfHeld(): void {
    if (this.#container.host.fence.isClosed || this.#container.status?.kind !== "running") return;
    if (this.#isOurs && this.runtime.cgroup.isFrozen()) this.runtime.cgroup.thaw();
  }

  #nextStep(): Step {
    if (this.#container.host.fence.isClosed) return { kind: "none" };
    if (!this.#ordered) {
      const status = this.#container.record?.status;
      return status?.kind === "frozen" && status.sent === "no" ? { kind: "thaw" } : { kind: "none" };
    }
    return nextStep(this.#desired, {
      record: this.#container.record,
      begunCheckpoint: this.#checkpointing.begun,
      failedMigrations: new Set(this.#migration?.failed === true ? [this.#migration.id] : []),
      nowMs: Date.now(),
    });
  }

  #begin(step: Step): void {
    this.#step = step;
    this.#stepAbort = new AbortController();
    this.#commit = Promise.withResolvers();
    this.#commit.promise.catch(() => undefined);
    this.#container.logger.info({ step: step.kind }, "step");
    // The desired state may have changed since nextStep looked at it.
    if (this.#ordered) this.setDesired(this.#desired);
  }

  async #take(step: Step): Promise<void> {
    switch (step.kind) {
      case "start":
        await this.#life.start(this.#wanted(), this.#stepAbort.signal);
        return this.#startedAfterSwitch();
      case "stop":
        return await this.#life.stop(this.#stepAbort.signal);
      case "remove":
        return await this.#remove();
      case "checkpoint": {
        const order = this.#desired?.checkpoint;
        if (order?.id !== step.checkpointId) return;
        await this.#arrival.settled;
        return await this.#checkpointing.take(order, this.#stepAbort.signal);
      }
      case "restore": {
        const wanted = this.#wanted();
        if (wanted.restore === undefined) return;
        return await this.#arrival.restore(wanted, wanted.restore, this.#stepAbort.signal);
      }
      case "copy":
        return await this.#copy(step.migrationId);
      case "thaw":
        return await this.#thaw();
      case "receive":
        return await this.#arrival.receive(
          this.#wanted(),
          this.#arrivalOrder(step.migrationId, MigrationPhase.PREPARING),
        );
      case "resume":
        return await this.#arrival.resume(this.#arrivalOrder(step.migrationId, MigrationPhase.RECEIVING));
      case "give-up":
        return await this.#life.giveUp(this.#health.output, this.#stepAbort.signal);
      case "amend":
        return this.#container.amend(this.#wanted().spec ?? ContainerSpec.fromPartial({}));
      case "inherit":
        return this.#container.inherit(this.#wanted().epoch);
      case "none":
      case "wait":
        return;
    }
  }

  /** Takes over what an earlier agent of this host left running. */
  async #adopt(): Promise<void> {
    const { status } = this.#container;
    try {
      if (status?.kind === "running" && this.runtime.isRunning(status.init)) {
        await this.runtime.reattachOutput(status.init);
        // Whether it may run if it stands frozen, the leader's first word tells. It is not to be slowed down for a move that ended with the agent.
        this.runtime.cgroup.limitCpu(this.#container.record?.spec.limits?.cpuMillis ?? 0);
        this.#arrival.dropImage();
      } else await this.#arrival.adopt();
      this.#arrival.follow(this.#desired);
    } catch (error) {
      this.#container.logger.error({ err: error }, "a container could not be taken over in full");
    }
    this.#container.changed();
  }

  async #remove(): Promise<void> {
    // Whoever follows its log gets the rest of it before it goes.
    await this.#leaves(this.#desired?.role === Role.RELEASED ? "moved" : "removed");
    await this.#departure.endService();
    const { host, status } = this.#container;
    const wasOwner = status !== undefined && status.kind !== "restoring";
    await this.runtime.remove();
    this.#container.forget();
    // Whoever misses this holds its memory until that is too old.
    if (this.#desired === undefined && wasOwner) host.connection.publish(CONTAINER_GONE_SUBJECT, this.id);
    this.#departure.gone(this.#desired?.role === Role.RELEASED ? this.#desired.migration?.id : undefined);
  }

  async #copy(migrationId: string): Promise<void> {
    const order = this.#desired?.migration;
    if (order === undefined) return;
    const progress = this.#report(migrationId, Role.SOURCE, MigrationPhase.COPYING);
    try {
      await this.#arrival.settled;
      await this.#departure.copy(order, progress, this.#stepAbort.signal);
      this.#serve();
    } catch (error) {
      this.#container.logger.warn({ err: error, migration: migrationId }, "the copy failed");
      try {
        // If it has ended, the leader is to hear of that, and of its exit code, first.
        await this.#life.noticeExit();
        // Only an image that was sent to its end can be restored elsewhere: otherwise it goes on here at once.
        const { status } = this.#container;
        if (status?.kind === "frozen" && status.sent === "no") await this.#thaw();
      } finally {
        progress.fail(GodwitError.from(error));
      }
    }
  }

  async #thaw(): Promise<void> {
    const record = this.#container.record;
    if (record?.status.kind !== "frozen") return;
    const { migrationId, init, startedAtMs } = record.status;
    await this.#departure.endService();
    await thaw(this.runtime, record);
    this.#departure.stayed();
    this.#container.setStatus({ kind: "running", init, startedAtMs });
    // Of a copy whose agent died: nobody else would remove it.
    this.#arrival.dropImage();
    // An agent that was restarted in the middle has lost the stream: the move cannot go on from here.
    if (
      this.#step.kind === "thaw" &&
      this.#desired?.migration?.id === migrationId &&
      this.#desired.role === Role.SOURCE
    ) {
      this.#report(migrationId, Role.SOURCE, MigrationPhase.COPYING).fail(
        new GodwitError("unavailable", "the source's agent restarted during the copy"),
      );
    }
  }

  /** What a cold move has brought is started like any other container when it could not be at the switch itself. */
  #startedAfterSwitch(): void {
    const order = this.#desired?.migration;
    if (
      order?.switched === true &&
      this.#migration?.id === order.id &&
      this.#container.status?.kind === "running"
    )
      this.#migration.enter(MigrationPhase.RUNNING);
  }

  #arrivalOrder(migrationId: string, phase: MigrationPhase): ArrivalOrder {
    return {
      migrationId,
      progress: this.#report(migrationId, Role.TARGET, phase),
      signal: this.#stepAbort.signal,
      switched: () => {
        const desired = this.#desired;
        if (desired?.role === Role.OWNER && desired.migration?.switched === true) return Promise.resolve();
        return this.#commit.promise;
      },
    };
  }

  #report(migrationId: string, role: Role, phase: MigrationPhase): MigrationProgress {
    this.#migration = new MigrationProgress(migrationId, this.id, role, phase, this.#container.changed);
    return this.#migration;
  }

  #wanted(): DesiredAllocation {
    if (this.#desired === undefined)
      throw new GodwitError("cancelled", "the container is no longer wanted here");
    return this.#desired;
  }
}
