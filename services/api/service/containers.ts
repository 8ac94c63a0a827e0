/** Container calls of the API, except for exec and logs. */
import type {
  ContainerInfo,
  ContainerRef,
  ListContainersRequest,
  ListContainersResponse,
  MigrationInfo,
  RemoveContainerRequest,
  RemoveContainerResponse,
  RunRequest,
  SetDesiredRequest,
  WhyReport,
} from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { findContainer, findNode } from "../find.ts";
import { follow } from "../follow.ts";
import { containerInfo } from "../view/container.ts";
import { migrationInfo, type MigrationRecord } from "../view/migration.ts";

export class ContainerService {
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  async run(request: RunRequest): Promise<ContainerInfo> {
    if (request.spec === undefined) throw new GodwitError("invalid", "the request has no spec");
    const container = await this.#scheduler.createContainer(request.spec);
    return this.#info(container.id);
  }

  async list(request: ListContainersRequest): Promise<ListContainersResponse> {
    const state = this.#scheduler.state();
    const node = request.node === "" ? undefined : findNode(state, request.node).name;
    const containers = Object.values(state.containers)
      .filter((container) => node === undefined || container.allocation?.node === node)
      .map((container) => this.#view(container.id))
      .filter((info) => info !== undefined)
      .sort((a, b) => compare(a.spec?.name ?? a.id, b.spec?.name ?? b.id));
    return { containers };
  }

  async inspect(request: ContainerRef): Promise<ContainerInfo> {
    return this.#info(findContainer(this.#scheduler.state(), request.nameOrId).id);
  }

  async why(request: ContainerRef): Promise<WhyReport> {
    const { id } = findContainer(this.#scheduler.state(), request.nameOrId);
    const view = this.#scheduler.why(id);
    if (view === undefined) throw new GodwitError("not-found", `the container ${id} was removed meanwhile`);
    const runtime = this.#scheduler.runtime();
    const move = (record: MigrationRecord | undefined): MigrationInfo | undefined =>
      record === undefined ? undefined : migrationInfo(record, runtime.migration(record.id));
    return {
      container: this.#info(id),
      history: view.history.map((step) => ({ ...step })),
      nodes: view.nodes.map((one) => ({ ...one, reasons: [...one.reasons] })),
      reasons: view.reasons.map((count) => ({ ...count })),
      staysBecause: [...view.staysBecause],
      lastMove: move(view.lastMove),
      lastFailure: move(view.lastFailure),
    };
  }

  /** Ends when the container is no more. */
  async *watch(request: ContainerRef, signal: AbortSignal): AsyncGenerator<ContainerInfo> {
    const { id } = findContainer(this.#scheduler.state(), request.nameOrId);
    // The memory in use is never the same twice and alone is no news.
    yield* follow(this.#scheduler, signal, () => this.#view(id), {
      key: (info) => JSON.stringify({ ...info, memoryBytes: 0, restartInMs: 0 }),
    });
  }

  async setDesired(request: SetDesiredRequest): Promise<ContainerInfo> {
    const { action } = request;
    if (action !== "start" && action !== "stop" && action !== "restart") {
      throw new GodwitError(
        "invalid",
        `${JSON.stringify(action)} is no action; known are start, stop and restart`,
      );
    }
    const { id } = findContainer(this.#scheduler.state(), request.nameOrId);
    await this.#scheduler.setDesired(id, action);
    return this.#info(id);
  }

  async remove(request: RemoveContainerRequest): Promise<RemoveContainerResponse> {
    const { id } = findContainer(this.#scheduler.state(), request.nameOrId);
    await this.#scheduler.removeContainer(id, request.force);
    return { id };
  }

  #view(id: string): ContainerInfo | undefined {
    const state = this.#scheduler.state();
    const container = Object.hasOwn(state.containers, id) ? state.containers[id] : undefined;
    if (container === undefined) return undefined;
    return containerInfo(state, container, this.#scheduler.runtime().container(id));
  }

  #info(id: string): ContainerInfo {
    const info = this.#view(id);
    if (info === undefined) throw new GodwitError("not-found", `the container ${id} was removed meanwhile`);
    return info;
  }
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
