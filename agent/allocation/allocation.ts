import type { Sight } from "../../proto/contract/report-book.ts";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import {
  type DesiredAllocation,
  type MigrationReport,
  MigrationPhase,
  Role,
} from "../../proto/gen/godwit/v1/agent.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import type { CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { CONTAINER_GONE_SUBJECT } from "../../proto/contract/subjects.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import { HealthMonitor } from "../health/monitor.ts";
import type { Host } from "../host.ts";
import { thaw } from "../migrate/thaw.ts";
import { belongsHere, nextStep, restartInMs, type Step } from "../model/next-step.ts";
import type { ContainerRecord } from "../model/record.ts";
import type { Findings } from "../obstacles/inspect.ts";
import { Arrival, type ArrivalOrder } from "./arrival.ts";
import { Checkpointing } from "./checkpointing.ts";
import { RecordedContainer } from "./container.ts";
import { Departure } from "./departure.ts";
import { Fenced } from "./fenced.ts";
import { Life } from "./life.ts";
import { MigrationAccount } from "./migration-account.ts";
import { observe, usageOf } from "./observe.ts";
import { StepInHand } from "./step-in-hand.ts";

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
  readonly #account: MigrationAccount;
  readonly #fenced: Fenced;
  readonly #leaves: (reason: "moved" | "removed") => Promise<void>;
  #desired: DesiredAllocation | undefined;
  /** Until the leader has spoken once, an agent that has just started touches nothing that runs. */
  #ordered = false;
  readonly #hand = new StepInHand();
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
    this.#account = new MigrationAccount(this.#container);
    this.#fenced = new Fenced(this.#container, this.#hand, {
      isOurs: () => belongsHere(this.#desired, this.#container.record),
      isToGo: () => this.#nextStep().kind === "remove",
    });
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
    return (
      this.#container.record === undefined && this.#desired === undefined && this.#hand.step.kind === "none"
    );
  }

  setDesired(desired: DesiredAllocation | undefined): void {
    this.#desired = desired;
    if (!this.#ordered) this.#account.failUnfinished(desired);
    this.#ordered = true;
    this.#hand.follow(desired);
    this.#account.expect(desired);
    this.#departure.expect(desired?.role === Role.SOURCE ? desired.migration : undefined);
    this.#checkpointing.expect(desired?.checkpoint);
    this.#arrival.follow(desired);
    if (this.#hand.step.kind !== "copy") this.#serve();
    this.#wakeUp();
  }

  /** Of a post-copy, the target asks the frozen container for its memory. */
  #serve(): void {
    const order = this.#desired?.role === Role.SOURCE ? this.#desired.migration : undefined;
    if (!this.#departure.servesFor(order)) return;
    this.#departure.serve(
      order,
      () => this.#account.progress ?? this.#account.begin(order.id, Role.SOURCE, MigrationPhase.DUMPED),
    );
  }

  /** The shim has seen the first process of the container end. */
  onExit(initPid: number, exitCode: number): void {
    if (this.#life.onExit(initPid, exitCode)) this.#wakeUp();
  }

  /** Looks whether the container still lives; cheap, called regularly. */
  check(): void {
    this.#container.catchUp();
    const status = this.#container.record?.status;
    const isNeeded =
      status?.kind === "running" ||
      (status?.kind === "frozen" && this.#departure.servesFor(this.#desired?.migration));
    if (isNeeded && !this.runtime.isRunning(status.init)) this.#wakeUp();
  }

  /** The first process of a container that runs and is not about to be frozen. */
  get livingInit(): number | undefined {
    const { status } = this.#container;
    return status?.kind === "running" && !this.#hand.freezes ? status.init.pid : undefined;
  }

  sight(findingsOf: (id: string, initPid: number) => Findings | undefined): Sight | undefined {
    const { record } = this.#container;
    if (record === undefined) return undefined;
    const { status } = record;
    const findings = status.kind === "running" ? findingsOf(this.id, status.init.pid) : undefined;
    const nowMs = Date.now();
    const inMs = restartInMs(record, this.#desired, nowMs);
    return {
      seen: { ...observe(record, this.#hand.step, findings), restartInMs: inMs },
      restartAtMs: inMs === 0 ? 0 : nowMs + inMs,
      use: () => ({
        ...usageOf(status, this.runtime.cgroup),
        healthOutput: status.kind === "running" ? this.#health.output : "",
      }),
    };
  }

  get checkpointReport(): CheckpointReport | undefined {
    return this.#checkpointing.report;
  }

  migrationReport(): MigrationReport | undefined {
    return this.#account.report(this.#desired, this.#arrival);
  }

  /** Stops the loop; the container goes on. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#departure[Symbol.dispose]();
    this.#checkpointing[Symbol.dispose]();
    this.#hand.giveUp(new GodwitError("cancelled", "the agent stops"));
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
        this.#fenced.thawIfHeld();
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
          { err: error, step: this.#hand.step.kind },
          "a step failed and is tried again",
        );
        // Only news from now on cut the pause short.
        this.#wake = Promise.withResolvers();
        await Promise.race([this.#wake.promise, delay(RETRY_MS, undefined, { ref: false })]);
      } finally {
        this.#hand.end();
        this.#container.changed();
      }
    }
  }

  /** The host's fence is about to be lifted. */
  unplugUnlessOurs(): Promise<void> {
    return this.#fenced.unplugUnlessOurs();
  }

  /** The host's fence has been lifted. */
  goOn(): void {
    this.#fenced.goOn();
    this.#wakeUp();
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
      failedMigrations: this.#account.failed,
      nowMs: Date.now(),
    });
  }

  #begin(step: Step): void {
    this.#hand.begin(step);
    this.#container.logger.info({ step: step.kind }, "step");
    // The desired state may have changed since nextStep looked at it.
    if (this.#ordered) this.setDesired(this.#desired);
  }

  async #take(step: Step): Promise<void> {
    switch (step.kind) {
      case "start":
        // Of one that came by a move or from a checkpoint and may run, though its record does not say so.
        if (await this.#arrival.adopt()) return;
        await this.#life.start(this.#wanted(), this.#hand.signal);
        return this.#account.startedAfterSwitch(this.#desired);
      case "stop":
        return await this.#life.stop(this.#hand.signal);
      case "remove":
        return await this.#remove();
      case "checkpoint": {
        const order = this.#desired?.checkpoint;
        if (order?.id !== step.checkpointId) return;
        await this.#arrival.settled;
        return await this.#checkpointing.take(order, this.#hand.signal);
      }
      case "restore": {
        const wanted = this.#wanted();
        if (wanted.restore === undefined) return;
        return await this.#arrival.restore(wanted, wanted.restore, this.#hand.signal);
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
        return await this.#life.giveUp(this.#health.output, this.#hand.signal);
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
    const progress = this.#account.begin(migrationId, Role.SOURCE, MigrationPhase.COPYING);
    try {
      await this.#arrival.settled;
      await this.#departure.copy(order, progress, this.#hand.signal);
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
    this.#container.found({ kind: "running", init, startedAtMs });
    // Of a copy whose agent died: nobody else would remove it.
    this.#arrival.dropImage();
    // An agent that was restarted in the middle has lost the stream: the move cannot go on from here.
    if (
      this.#hand.step.kind === "thaw" &&
      this.#desired?.migration?.id === migrationId &&
      this.#desired.role === Role.SOURCE
    ) {
      this.#account
        .begin(migrationId, Role.SOURCE, MigrationPhase.COPYING)
        .fail(new GodwitError("unavailable", "the source's agent restarted during the copy"));
    }
  }

  #arrivalOrder(migrationId: string, phase: MigrationPhase): ArrivalOrder {
    return {
      migrationId,
      progress: this.#account.begin(migrationId, Role.TARGET, phase),
      signal: this.#hand.signal,
      switched: () => this.#hand.switched(this.#desired),
    };
  }

  #wanted(): DesiredAllocation {
    if (this.#desired === undefined)
      throw new GodwitError("cancelled", "the container is no longer wanted here");
    return this.#desired;
  }
}
