/** Drains, evacuations and returns: first the plan, with what its moves are expected to cost, then the doing. */
import type { NatsConnection } from "@nats-io/transport-node";
import type {
  DrainPlanItem,
  DrainRequest,
  DrainStatus,
  NodeRef,
  ReturnRequest,
} from "../../../proto/gen/godwit/v1/api.ts";
import { MigrationMode } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { DrainProgress, Scheduler } from "../../../scheduler/mod.ts";
import { findNode } from "../find.ts";
import { follow } from "../follow.ts";
import { askForecast } from "../session/forecast.ts";

/** An agent makes eight at once, each in about a second. */
const FORECASTS_AT_A_TIME = 6;
/** A plan is shown after this at the latest, whatever it knows by then. */
const FORECASTS_MS = 15_000;

export class MaintenanceService {
  readonly #scheduler: Scheduler;
  readonly #connection: NatsConnection;

  constructor(scheduler: Scheduler, connection: NatsConnection) {
    this.#scheduler = scheduler;
    this.#connection = connection;
  }

  /** Makes a plan, starts the drain and follows it to its end; the drain goes on when the client leaves. */
  async *drain(request: DrainRequest, signal: AbortSignal): AsyncGenerator<DrainStatus> {
    const { deadlineSeconds, dryRun, evacuate = false, force, parallel, perLink = 0 } = request;
    const { name } = findNode(this.#scheduler.state(), request.node);
    if (request.follow !== true) {
      const deadlineMs = deadlineSeconds * 1000;
      const plan = await this.#withForecasts(this.#scheduler.planDrain(name, { deadlineMs, force }), signal);
      yield plan;
      if (dryRun) return;
      signal.throwIfAborted();
      await this.#scheduler.startDrain({
        ...{ node: name, deadlineMs, parallel, perLink, force, evacuate },
        plan: plan.plan.filter(({ to }) => to !== "").map(({ containerId, to }) => ({ containerId, to })),
      });
    }
    yield* this.#follow(name, "drainProgress", signal);
  }

  async cancelDrain(request: NodeRef): Promise<DrainStatus> {
    const { name } = findNode(this.#scheduler.state(), request.node);
    await this.#scheduler.cancelDrain(name);
    return this.#status(name, "drainProgress");
  }

  /** As a drain, in the other direction. */
  async *returnNode(request: ReturnRequest, signal: AbortSignal): AsyncGenerator<DrainStatus> {
    const { dryRun, parallel, perLink } = request;
    const { name } = findNode(this.#scheduler.state(), request.node);
    if (!request.follow) {
      yield await this.#withForecasts(this.#scheduler.planReturn(name), signal);
      if (dryRun) return;
      signal.throwIfAborted();
      await this.#scheduler.startReturn({ node: name, parallel, perLink });
    }
    yield* this.#follow(name, "returnProgress", signal);
  }

  async cancelReturn(request: NodeRef): Promise<DrainStatus> {
    const { name } = findNode(this.#scheduler.state(), request.node);
    await this.#scheduler.cancelReturn(name);
    return this.#status(name, "returnProgress");
  }

  #follow(
    name: string,
    what: "drainProgress" | "returnProgress",
    signal: AbortSignal,
  ): AsyncIterable<DrainStatus> {
    this.#status(name, what);
    const read = (): DrainStatus | undefined => {
      const progress = this.#scheduler[what](name);
      return progress === undefined ? undefined : statusOf(progress);
    };
    return follow(this.#scheduler, signal, read, {
      // The time that has passed alone is no news.
      key: (status) => JSON.stringify({ ...status, totalMs: 0 }),
      last: ({ state }) => state !== "draining" && state !== "returning",
    });
  }

  #status(name: string, what: "drainProgress" | "returnProgress"): DrainStatus {
    const progress = this.#scheduler[what](name);
    if (progress !== undefined) return statusOf(progress);
    const never = what === "drainProgress" ? "was never drained" : "never got anything back";
    throw new GodwitError("not-found", `node ${name} ${never}`);
  }

  /** Several agents are asked at once, and none is waited for beyond the limit. */
  async #withForecasts(progress: DrainProgress, signal: AbortSignal): Promise<DrainStatus> {
    const status = statusOf(progress);
    const untilMs = performance.now() + FORECASTS_MS;
    const waiting = status.plan.filter(({ action }) => action === "live" || action === "cold").values();
    const ask = async (): Promise<void> => {
      for (const item of waiting) {
        signal.throwIfAborted();
        if (performance.now() > untilMs)
          item.remark = `no forecast: there was no time for it within ${FORECASTS_MS / 1000} s`;
        else await this.#forecast(item);
      }
    };
    await Promise.all(Array.from({ length: FORECASTS_AT_A_TIME }, ask));
    return status;
  }

  async #forecast(item: DrainPlanItem): Promise<void> {
    const container = this.#scheduler.state().containers[item.containerId];
    const from = container?.allocation?.node;
    if (from === undefined) {
      item.remark = "no forecast: it is gone";
      return;
    }
    try {
      const { forecast, remark } = await askForecast(this.#connection, item.containerId, {
        from,
        to: item.to,
        mode: item.action === "cold" ? MigrationMode.COLD : MigrationMode.AUTO,
        blackoutBudgetMs: container?.spec?.blackoutBudgetMs ?? 0,
        bandwidthBytesPerSecond: 0,
      });
      item.forecast = forecast;
      item.remark = forecast?.refusal || remark;
    } catch (error) {
      // What would be refused now is no reason to show no plan.
      item.remark = GodwitError.from(error).message;
    }
  }
}

const statusOf = (progress: DrainProgress): DrainStatus => ({
  ...progress,
  moved: progress.moved.map((item) => ({ ...item })),
  failed: progress.failed.map((item) => ({ ...item })),
  remaining: progress.remaining.map((item) => ({ ...item })),
  plan: progress.plan.map((item) => ({ ...item })),
});
