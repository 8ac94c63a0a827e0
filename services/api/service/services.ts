/** Service calls of the API. */
import type {
  ApplyServicesRequest,
  ApplyServicesResponse,
  ListServicesResponse,
  RollBackServiceRequest,
  ScaleServiceRequest,
  ServiceInfo,
  ServiceRef,
} from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { follow } from "../follow.ts";
import { lookUp } from "../lookup.ts";
import { containerInfo } from "../view/container.ts";
import { serviceChange, serviceInfo } from "../view/service.ts";

/** A file with more is better split; it bounds what one log entry holds. */
const MAX_APPLIED = 200;

export class ServiceService {
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  async apply({ dryRun, services }: ApplyServicesRequest): Promise<ApplyServicesResponse> {
    if (services.length === 0) throw new GodwitError("invalid", "the request holds no service");
    if (services.length > MAX_APPLIED)
      throw new GodwitError("invalid", `${services.length} services are more than ${MAX_APPLIED} at a time`);
    const applications = services.map(({ expectedVersion, spec }) => {
      if (spec === undefined) throw new GodwitError("invalid", "the request has a service without a spec");
      return { spec, ...(expectedVersion === undefined ? {} : { expectedVersion }) };
    });
    const plans = dryRun
      ? this.#scheduler.services.plan(applications)
      : await this.#scheduler.services.apply(applications);
    return { services: plans.map(serviceChange) };
  }

  async list(): Promise<ListServicesResponse> {
    const names = Object.keys(this.#scheduler.state().services).sort();
    return { services: names.map((name) => this.#view(name)).filter((info) => info !== undefined) };
  }

  async inspect({ name }: ServiceRef): Promise<ServiceInfo> {
    return this.#info(this.#find(name));
  }

  /** Ends when the service is no more. */
  async *watch({ name }: ServiceRef, signal: AbortSignal): AsyncGenerator<ServiceInfo> {
    const found = this.#find(name);
    yield* follow(this.#scheduler, signal, () => this.#view(found), {
      // Figures that are never the same twice are no news by themselves.
      key: (info) =>
        JSON.stringify({
          ...info,
          containers: info.containers.map((one) => ({ ...one, memoryBytes: 0, restartInMs: 0 })),
        }),
    });
  }

  async scale({ name, replicas }: ScaleServiceRequest): Promise<ServiceInfo> {
    const found = this.#find(name);
    await this.#scheduler.services.scale(found, replicas);
    return this.#info(found);
  }

  async rollBack({ name, revision }: RollBackServiceRequest): Promise<ServiceInfo> {
    const found = this.#find(name);
    await this.#scheduler.services.rollBack(found, revision);
    return this.#info(found);
  }

  async remove({ name }: ServiceRef): Promise<ServiceInfo> {
    const found = this.#find(name);
    const before = this.#info(found);
    await this.#scheduler.services.remove(found);
    return this.#view(found) ?? before;
  }

  #find(wanted: string): string {
    const named = Object.keys(this.#scheduler.state().services).map((name) => ({ id: name, name }));
    return lookUp(named, wanted, "service", "'godwit service ls' lists them").name;
  }

  #view(name: string): ServiceInfo | undefined {
    const state = this.#scheduler.state();
    const service = Object.hasOwn(state.services, name) ? state.services[name] : undefined;
    if (service === undefined) return undefined;
    const { services } = this.#scheduler;
    const runtime = this.#scheduler.runtime();
    const members = services.containersOf(name).flatMap((id) => {
      const container = state.containers[id];
      if (container === undefined) return [];
      const info = containerInfo(state, container, runtime.container(id));
      return [
        { info, isAvailable: services.isAvailable(id), isLeaving: container.retiring || container.removing },
      ];
    });
    return serviceInfo(service, members, {
      disruptionsAllowed: services.disruptionsAllowed(name),
      obstacle: services.obstacle(name),
    });
  }

  #info(name: string): ServiceInfo {
    const info = this.#view(name);
    if (info === undefined) throw new GodwitError("not-found", `the service ${name} was removed meanwhile`);
    return info;
  }
}
