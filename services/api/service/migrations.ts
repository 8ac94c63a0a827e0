/** Move and migration calls of the API. */
import type {
  ListMigrationsRequest,
  ListMigrationsResponse,
  MigrationInfo,
  MigrationRef,
  MoveRequest,
} from "../../../proto/gen/godwit/v1/api.ts";
import { MigrationFigures, MigrationMode } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { NatsConnection } from "@nats-io/transport-node";
import { requestId, type Scheduler } from "../../../scheduler/mod.ts";
import { askForecast, NO_FORECAST } from "../session/forecast.ts";
import { findContainer, findMigration, findNode } from "../find.ts";
import { follow } from "../follow.ts";
import { migrationEnded, migrationInfo } from "../view/migration.ts";

const DEFAULT_LIMIT = 100;

export class MigrationService {
  readonly #scheduler: Scheduler;
  readonly #connection: NatsConnection;

  constructor(scheduler: Scheduler, connection: NatsConnection) {
    this.#scheduler = scheduler;
    this.#connection = connection;
  }

  async move(request: MoveRequest): Promise<MigrationInfo> {
    const state = this.#scheduler.state();
    const known = this.#view(requestId() ?? "");
    if (known !== undefined) return known; // the answer to this request was lost
    const container = findContainer(state, request.nameOrId);
    const name = container.spec?.name ?? container.id;
    const containerId = container.id;
    const order = {
      containerId,
      ...(request.node === "" ? {} : { to: findNode(state, request.node).name }),
      mode: request.mode === MigrationMode.UNSPECIFIED ? MigrationMode.AUTO : request.mode,
      blackoutBudgetMs: request.blackoutBudgetMs,
      bandwidthBytesPerSecond: request.bandwidthBytesPerSecond,
      reason: "operator",
    };
    const plan = this.#scheduler.planMove(order);
    // Measuring takes a second: it is waited for where a budget may say no, or where the forecast is what was asked for.
    const { forecast, remark } =
      request.dryRun || plan.blackoutBudgetMs > 0
        ? await askForecast(this.#connection, containerId, plan)
        : NO_FORECAST;
    if (forecast !== undefined && forecast.refusal !== "")
      throw new GodwitError(
        "refused",
        `${name} is not moved from ${plan.from} to ${plan.to}: ${forecast.refusal}`,
      );
    if (!request.dryRun) {
      const migration = await this.#scheduler.startMigration({
        ...order,
        to: plan.to,
        ...(forecast === undefined ? {} : { predicted: forecast }),
      });
      // The agents may have been faster than the answer: look it up instead of using what was recorded first.
      return this.#view(migration.id) ?? migrationInfo(migration, undefined);
    }
    return {
      predicted: forecast,
      remark,
      id: "",
      container: name,
      containerId,
      from: plan.from,
      to: plan.to,
      mode: plan.mode,
      state: "planned",
      phase: "",
      figures: MigrationFigures.fromPartial({}),
      error: "",
      startedAtMs: 0,
      endedAtMs: 0,
      bytesDone: 0,
      bytesTotal: 0,
      reason: order.reason,
    };
  }

  /** Ends with the migration. */
  async *watch(request: MigrationRef, signal: AbortSignal): AsyncGenerator<MigrationInfo> {
    const { id } = findMigration(this.#scheduler.state(), request.id);
    yield* follow(this.#scheduler, signal, () => this.#view(id), {
      key: (info) => JSON.stringify(info),
      last: ({ state }) => state === "finished" || state === "aborted" || state === "lost",
    });
  }

  /** Running ones first, then the newest. */
  async list(request: ListMigrationsRequest): Promise<ListMigrationsResponse> {
    const state = this.#scheduler.state();
    if (request.id !== "") {
      const found = this.#view(findMigration(state, request.id).id);
      return { migrations: found === undefined ? [] : [found] };
    }
    // A container that is gone still has a history, under its name.
    const wanted =
      request.container === "" ? undefined : (idOf(state, request.container) ?? request.container);
    const records = Object.values(state.migrations)
      .filter(
        (record) => wanted === undefined || record.containerId === wanted || record.containerName === wanted,
      )
      .sort(
        (a, b) =>
          Number(migrationEnded(a)) - Number(migrationEnded(b)) ||
          b.startedAtMs - a.startedAtMs ||
          (a.id < b.id ? -1 : 1),
      );
    const migrations = records
      .slice(0, request.limit === 0 ? DEFAULT_LIMIT : request.limit)
      .map((record) => this.#view(record.id));
    return { migrations: migrations.filter((info) => info !== undefined) };
  }

  async cancel(request: MigrationRef): Promise<MigrationInfo> {
    const { id } = findMigration(this.#scheduler.state(), request.id);
    await this.#scheduler.cancelMigration(id);
    const info = this.#view(id);
    if (info === undefined) throw new GodwitError("not-found", `the migration ${id} was forgotten meanwhile`);
    return info;
  }

  #view(id: string): MigrationInfo | undefined {
    const { migrations } = this.#scheduler.state();
    const record = Object.hasOwn(migrations, id) ? migrations[id] : undefined;
    return record === undefined ? undefined : migrationInfo(record, this.#scheduler.runtime().migration(id));
  }
}

function idOf(state: ReturnType<Scheduler["state"]>, nameOrId: string): string | undefined {
  try {
    return findContainer(state, nameOrId).id;
  } catch (error) {
    if (error instanceof GodwitError && error.code === "not-found") return undefined;
    throw error;
  }
}
