import { GodwitError } from "../../proto/contract/error.ts";
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import { forecastMessage, termsOf } from "../forecast/forecaster.ts";
import type { SubjectSampler } from "../forecast/subject-sampler.ts";
import type { Host } from "../host.ts";
import { DirtyCurve } from "../model/dirty-curve.ts";
import {
  budgetRefusal,
  type Forecast,
  forecastMove,
  freezeCosts,
  type MoveTerms,
} from "../model/forecast.ts";
import { learnDeparture, learnRate, learnScan, type MoveSize, scanMs } from "../model/move-costs.ts";
import type { ContainerRecord } from "../model/record.ts";
import { type CopiedRound, type CopyDecision, decideAfterRound } from "../model/stop-rule.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { RoundFigures } from "./round-figures.ts";
import type { MigrationProgress } from "./progress.ts";

/** A round that sends less says more about this host's pace than about the link's. */
const MEASURES_LINK_BYTES = 8 * 1024 * 1024;
/** Of a round's time, what sending is taken to be at least. */
const LEAST_SENDING = 0.25;
const TELL_EVERY_MS = 250;
/** A freeze that lasts this much longer than its budget before the image is whole is given up. */
const OVERRUN_TIMES = 3;
const OVERRUN_AT_LEAST_MS = 500;

export interface PilotInputs {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly record: ContainerRecord;
  readonly order: MigrationOrder;
  readonly progress: MigrationProgress;
  readonly sampler: SubjectSampler;
  readonly signal: AbortSignal;
}

/** On the wire; 0: no cap. */
export const bandwidthOf = ({ order, host }: Pick<PilotInputs, "order" | "host">): number =>
  order.bandwidthBytesPerSecond || (host.config.moveBytesPerSecond ?? 0);

/**
 * Steers a copy by what it measures: after each round it decides with the stop rule whether there is another one, slows
 * the container down where the rule says so, refuses before the freeze what its budget does not allow, and gives up a
 * freeze that overruns its budget by far while that is still this host's to decide. What it measures, the host learns.
 */
export class CopyPilot implements Disposable {
  /** Aborts with the copy's own signal, and when a freeze overruns its budget. */
  readonly signal: AbortSignal;
  readonly #inputs: PilotInputs;
  readonly #terms: MoveTerms | undefined;
  readonly #forecast: Forecast | undefined;
  readonly #curve: DirtyCurve | undefined;
  readonly #overrun: AbortController;
  readonly #rounds: CopiedRound[] = [];
  readonly #beganAtMs = performance.now();
  readonly #ownCpuMillis: number;
  readonly #cpuAtBegin: number;
  #bytesPerSecond: number | undefined;
  #cpuPercent = 100;
  #usedCpuMillis: number | undefined;
  #ticker: NodeJS.Timeout | undefined;
  #overrunTimer: NodeJS.Timeout | undefined;

  private constructor(inputs: PilotInputs, terms: MoveTerms | undefined, overrun: AbortController) {
    this.#inputs = inputs;
    this.#terms = terms;
    this.#overrun = overrun;
    this.signal = AbortSignal.any([inputs.signal, overrun.signal]);
    this.#bytesPerSecond = terms?.bytesPerSecond;
    this.#ownCpuMillis = inputs.record.spec.limits?.cpuMillis ?? 0;
    this.#cpuAtBegin = inputs.runtime.cgroup.cpuUsageUsec();
    if (terms === undefined) return;
    this.#forecast = forecastMove(terms);
    this.#curve = new DirtyCurve(terms.subject.dirty, terms.subject.memoryPages);
    inputs.progress.forecast(forecastMessage(terms, this.#forecast));
    inputs.progress.estimate(this.#forecast.copiedBytes);
  }

  /** A container that cannot be measured is moved without a forecast. */
  static async begin(inputs: PilotInputs): Promise<CopyPilot> {
    const { host, order, runtime, sampler } = inputs;
    await sampler.first.catch((error: unknown) => {
      host.logger.warn(
        { err: error, migration: order.id },
        "the container could not be measured before its move",
      );
    });
    inputs.signal.throwIfAborted();
    const subject = sampler.subject();
    // The pages are looked at by the rounds from here on.
    sampler[Symbol.dispose]();
    const terms =
      subject === undefined || subject.memoryPages === 0
        ? undefined
        : await termsOf(host.connection, host.costs, {
            subject,
            to: order.peerNode,
            mode: order.mode,
            budgetMs: order.blackoutBudgetMs,
            canThrottle: runtime.cgroup.canLimitCpu,
            bandwidthBytesPerSecond: bandwidthOf(inputs),
          });
    return new CopyPilot(inputs, terms, new AbortController());
  }

  get elapsedMs(): number {
    return performance.now() - this.#beganAtMs;
  }

  /** As the target expects it. */
  get arrivalMs(): number {
    return this.#terms?.arrivalMs ?? 0;
  }

  /** Reports how far the copy is, from now on. */
  follow(sender: Pick<ImageSender, "rawBytes" | "sentBytes">): void {
    const tell = (): void => {
      this.#inputs.progress.figures({ sentBytes: sender.sentBytes });
      this.#inputs.progress.sent(sender.rawBytes);
      this.#tell();
    };
    tell();
    this.#ticker = setInterval(tell, TELL_EVERY_MS);
  }

  /**
   * Whether another round is to be copied while the container runs; false: freeze it now.
   * @param pendingPages distinct pages written since the last round began, where the kernel tells
   * Throws `refused` when the budget cannot be kept.
   */
  goesOn(pendingPages?: number): boolean {
    const decision = this.#decide(pendingPages);
    this.#inputs.host.logger.info(
      { migration: this.#inputs.order.id, last: this.#rounds.at(-1), bytesPerSecond: this.#rate(), decision },
      "after a round",
    );
    switch (decision.kind) {
      case "copy":
        break;
      case "throttle":
        this.#slowDown(decision.cpuPercent);
        break;
      case "refuse":
        throw new GodwitError(
          "refused",
          budgetRefusal("not frozen", decision.expectedMs, this.#inputs.order.blackoutBudgetMs),
        );
      case "freeze":
        return false;
    }
    this.#tell();
    return true;
  }

  add({ pages, changedPages, heldPages, tookMs }: RoundFigures): void {
    this.#rounds.push({ pages, changedPages, tookMs, cpuPercent: this.#cpuPercent });
    const { host, order } = this.#inputs;
    const changedBytes = changedPages * PAGE_BYTES;
    const { memoryBytes } = this.#size();
    const looking = scanMs(host.costs.costs, memoryBytes);
    if (heldPages > 0) {
      // Most of its time went into neither the link nor looking alone.
    } else if (changedBytes >= MEASURES_LINK_BYTES) {
      const measured = changedBytes / (Math.max(tookMs - looking, tookMs * LEAST_SENDING) / 1000);
      this.#bytesPerSecond = measured;
      // A capped move says nothing of what the link can do.
      if (bandwidthOf(this.#inputs) === 0)
        host.costs.learn((costs) => learnRate(costs, order.peerNode, measured));
    } else if (this.#rounds.length > 1) {
      const sendingMs = (changedBytes / this.#rate()) * 1000;
      host.costs.learn((costs) => learnScan(costs, memoryBytes, tookMs - sendingMs));
    }
    this.#tell();
  }

  /** Immediately before the freeze: the container is at its full pace, and from now on its budget runs. */
  freezes(): void {
    const { order, runtime } = this.#inputs;
    clearInterval(this.#ticker);
    // A quota would hit CRIU's work inside the container too.
    runtime.cgroup.limitCpu(0);
    if (order.blackoutBudgetMs === 0) return;
    const limitMs = Math.max(
      order.blackoutBudgetMs * OVERRUN_TIMES,
      order.blackoutBudgetMs + OVERRUN_AT_LEAST_MS,
    );
    this.#overrunTimer = setTimeout(() => {
      const text = `it stood still for ${limitMs} ms, its blackout budget is ${order.blackoutBudgetMs} ms, and the image was not whole`;
      this.#overrun.abort(new GodwitError("refused", text));
    }, limitMs);
  }

  /** The target may have the whole image: whether the freeze ends here is no longer this host's to say. */
  committed(): void {
    clearTimeout(this.#overrunTimer);
  }

  /** The target has acknowledged everything, so long after the freeze. */
  sent({ changedPages }: RoundFigures, frozenMs: number): void {
    const size = this.#size();
    if (size.memoryBytes === 0) return;
    this.#inputs.host.costs.learn((costs) =>
      learnDeparture(costs, size, changedPages * PAGE_BYTES, this.#rate(), frozenMs),
    );
  }

  [Symbol.dispose](): void {
    clearInterval(this.#ticker);
    clearTimeout(this.#overrunTimer);
    // A container that stays runs as its spec says; one that is frozen gets its limits with its thaw.
    this.#inputs.runtime.cgroup.limitCpu(this.#ownCpuMillis);
  }

  #decide(pendingPages: number | undefined): CopyDecision {
    const { order, runtime } = this.#inputs;
    const budgetMs = order.blackoutBudgetMs;
    if (order.mode === MigrationMode.CHECKPOINT || order.mode === MigrationMode.POSTCOPY) {
      const expectedMs = this.#forecast?.blackoutMs ?? 0;
      return { kind: budgetMs > 0 && expectedMs > budgetMs ? "refuse" : "freeze", expectedMs };
    }
    return decideAfterRound({
      rounds: this.#rounds,
      ...(this.#curve === undefined ? {} : { curve: this.#curve }),
      ...(pendingPages === undefined ? {} : { pendingPages }),
      ...this.#freezeCosts(),
      budgetMs,
      canThrottle: runtime.cgroup.canLimitCpu,
    });
  }

  #freezeCosts(): { standstillMs: number; pageMs: number } {
    if (this.#terms === undefined) return { standstillMs: 0, pageMs: (PAGE_BYTES / this.#rate()) * 1000 };
    return freezeCosts(this.#size(), { ...this.#terms, bytesPerSecond: this.#rate() });
  }

  #rate(): number {
    return this.#bytesPerSecond ?? 200e6;
  }

  #size(): MoveSize {
    const subject = this.#terms?.subject;
    const pages = subject?.memoryPages ?? this.#rounds[0]?.pages ?? 0;
    return { memoryBytes: pages * PAGE_BYTES, processes: subject?.processes ?? 1 };
  }

  #slowDown(cpuPercent: number): void {
    const { host, order, runtime } = this.#inputs;
    this.#usedCpuMillis ??= (runtime.cgroup.cpuUsageUsec() - this.#cpuAtBegin) / Math.max(1, this.elapsedMs);
    const cpuMillis = Math.ceil((this.#usedCpuMillis * cpuPercent) / 100);
    host.logger.info(
      { migration: order.id, cpuPercent, cpuMillis },
      "the container writes too fast: slowed down",
    );
    this.#cpuPercent = cpuPercent;
    runtime.cgroup.limitCpu(Math.max(1, cpuMillis));
  }

  #tell(): void {
    const last = this.#rounds.at(-1);
    const before = this.#rounds.at(-2);
    const dirtyBytesPerSecond =
      last !== undefined && before !== undefined
        ? ((last.changedPages * PAGE_BYTES) / Math.max(1, before.tookMs)) * 1000
        : (this.#forecast?.dirtyBytesPerSecond ?? 0);
    const forecast = this.#forecast;
    this.#inputs.progress.copying({
      round: this.#rounds.length + 1,
      dirtyBytesPerSecond,
      copyBytesPerSecond: this.#rate(),
      remainingMs:
        forecast === undefined ? 0 : Math.max(forecast.blackoutMs, forecast.totalMs - this.elapsedMs),
      cpuPercent: this.#cpuPercent,
    });
  }
}
