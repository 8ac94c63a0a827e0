/** What the API asks for of services: checked against the state for a clear error, then proposed. */
import { GodwitError } from "../../proto/contract/error.ts";
import { RolloutState, type Command, type Service } from "../../proto/gen/godwit/v1/log.ts";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { checkServiceSpec } from "../model/service-check.ts";
import { sameValue, templateChange } from "../model/service-policy.ts";
import { command } from "../plan/command.ts";
import { disruptionsAllowed, PlannedDisruptions } from "../plan/disruption.ts";
import type { ServiceApplication, ServiceChangeKind, ServicePlan, Services } from "../public-services.ts";
import { creationRefusal } from "../plan/services.ts";
import { isAvailable } from "../state/availability.ts";
import type { Cluster } from "../state/cluster.ts";
import type { Outcome } from "../state/rejection.ts";
import { asRequested, isRequestDone } from "./request.ts";

const changeKinds = (service: Service, before: ServiceSpec, after: ServiceSpec): ServiceChangeKind[] => {
  const template =
    before.template === undefined || after.template === undefined
      ? "rolling"
      : templateChange(before.template, after.template);
  const policies = ({ disruption, spread, update }: ServiceSpec): unknown => ({ disruption, spread, update });
  const kinds: ServiceChangeKind[] = [];
  if (before.replicas !== after.replicas) kinds.push("scale");
  if (template === "in-place" || !sameValue(policies(before), policies(after))) kinds.push("in-place");
  if (template === "rolling") kinds.push("rolling");
  if (kinds.length === 0 && service.rollout?.state === RolloutState.PAUSED) kinds.push("resume");
  return kinds;
};

export class ServiceOperations implements Services {
  readonly #cluster: Cluster;
  readonly #proposeCommand: (command: Command) => Promise<Outcome>;

  constructor(cluster: Cluster, propose: (command: Command) => Promise<Outcome>) {
    this.#cluster = cluster;
    this.#proposeCommand = propose;
  }

  async #propose(proposed: Command): Promise<void> {
    const outcome = await this.#proposeCommand(asRequested(proposed));
    if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
  }
  #service(name: string): Service {
    const service = this.#cluster.state.services[name];
    if (service === undefined)
      throw new GodwitError("not-found", `there is no service ${name}: "godwit service ls" lists them`);
    return service;
  }

  /** With the digest that the image's name stands for now. */
  #resolved(given: ServiceSpec): ServiceSpec {
    checkServiceSpec(given);
    const image = this.#cluster.state.images[given.template?.image ?? ""];
    if (image === undefined)
      throw new GodwitError(
        "not-found",
        `the service ${given.name} wants the image ${given.template?.image ?? ""}, which is not there: import it first ("godwit image import")`,
      );
    const template = ContainerSpec.fromPartial({ ...given.template, imageDigest: image.digest });
    return ServiceSpec.fromPartial({ ...given, template });
  }

  plan(applications: readonly ServiceApplication[]): ServicePlan[] {
    return applications.map(({ spec }) => {
      const after = this.#resolved(spec);
      const service = this.#cluster.state.services[spec.name];
      if (service?.spec === undefined)
        return { name: spec.name, action: "create", how: [], version: 0, after };
      if (service.removing)
        throw new GodwitError(
          "refused",
          `the service ${spec.name} is being removed: apply again when it is gone`,
        );
      const before = structuredClone(service.spec);
      const how = changeKinds(service, before, after);
      const action = how.length === 0 ? "none" : "update";
      return { name: spec.name, action, how, version: service.version, before, after };
    });
  }

  async apply(applications: readonly ServiceApplication[]): Promise<ServicePlan[]> {
    const plans = this.plan(applications);
    const services = plans.flatMap(({ action, after, version }, at) => {
      const expectedVersion = applications[at]?.expectedVersion ?? version;
      // What needs no change is still checked: somebody may have changed it since it was looked at.
      return action === "none" && expectedVersion === version ? [] : [{ spec: after, expectedVersion }];
    });
    if (services.length > 0) await this.#propose(command("servicesApplied", { services }));
    return plans;
  }

  async scale(name: string, replicas: number): Promise<void> {
    this.#service(name);
    await this.#propose(command("serviceScaled", { name, replicas }));
  }

  async rollBack(name: string, revision: number): Promise<void> {
    const service = this.#service(name);
    // From where it has gone back to there may be no way back.
    if (isRequestDone(this.#cluster)) return;
    const earlier = service.history.findLast((one) => one.revision < service.revision)?.revision;
    const to = revision === 0 ? earlier : revision;
    if (to === undefined)
      throw new GodwitError("refused", `the service ${name} has no earlier revision to go back to`);
    await this.#propose(command("serviceRolledBack", { name, revision: to }));
  }

  async remove(name: string): Promise<void> {
    this.#service(name);
    await this.#propose(command("serviceRemoveRequested", { name }));
  }

  containersOf(name: string): readonly string[] {
    return [...(this.#cluster.index.ofService.get(name) ?? [])];
  }

  disruptionsAllowed(name: string): number {
    const planned = new PlannedDisruptions(this.#cluster);
    return Math.min(disruptionsAllowed(this.#cluster, planned, name), planned.availableOf(name).size);
  }

  obstacle(name: string): string {
    const service = this.#cluster.state.services[name];
    const { ofService } = this.#cluster.index;
    if (service?.spec === undefined || service.removing) return "";
    if ((ofService.get(name)?.size ?? 0) >= service.spec.replicas) return "";
    return creationRefusal(this.#cluster, service) ?? "";
  }

  isAvailable(containerId: string): boolean {
    const container = this.#cluster.state.containers[containerId];
    return container !== undefined && isAvailable(this.#cluster, container);
  }
}
