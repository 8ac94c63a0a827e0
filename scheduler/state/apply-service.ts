/** Commands about services as a whole; those about their containers are in apply-service-container.ts. */
import { GodwitError } from "../../proto/contract/error.ts";
import {
  RolloutState,
  type Rollout,
  type Service,
  type ServiceApplied,
  type ServiceRemoved,
  type ServiceRemoveRequested,
  type ServiceRolledBack,
  type ServiceRolloutEnded,
  type ServicesApplied,
  type ServiceScaled,
} from "../../proto/gen/godwit/v1/log.ts";
import type { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { checkServiceSpec } from "../model/service-check.ts";
import { sameValue, templateChange, updateRules } from "../model/service-policy.ts";
import { dropUnusedReplaced, imageOf } from "./apply-image.ts";
import { reindexService, type Cluster } from "./cluster.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

/** Revisions that can be gone back to. */
const MAX_HISTORY = 10;
/** All services and their templates have to fit a snapshot and its messages; this is far beyond what people write. */
const MAX_SERVICES = 10_000;

const missing = (name: string): Outcome =>
  reject("not-found", `there is no service ${name}: "godwit service ls" lists them`);

const rollout = (state: RolloutState, atMs: number, rest: Partial<Rollout> = {}): Rollout => ({
  state,
  startedAtMs: atMs,
  endedAtMs: 0,
  failure: "",
  failedRevision: 0,
  ...rest,
});

/** Changes a service that is there, and lets go of images that only its past needed. */
const change = (cluster: Cluster, service: Service, how: () => void): void => {
  const name = service.spec?.name ?? "";
  const digests = service.history.map(({ template }) => template?.imageDigest ?? "");
  reindexService(cluster, name, how);
  for (const digest of new Set(digests)) dropUnusedReplaced(cluster, digest);
};

const remember = (service: Service, template: ContainerSpec, atMs: number): void => {
  service.history.push({ revision: service.revision, template, atMs });
  while (service.history.length > MAX_HISTORY) {
    const oldest = service.history.findIndex(
      ({ revision }) => revision !== service.revision && revision !== service.stableRevision,
    );
    service.history.splice(oldest, 1);
  }
};

/** Why the service cannot become this; nothing has been changed. */
const applicationCheck = (cluster: Cluster, { spec, expectedVersion }: ServiceApplied): Outcome => {
  if (spec === undefined) return reject("invalid", "no specification of a service given");
  try {
    checkServiceSpec(spec);
  } catch (error) {
    const { code, message } = GodwitError.from(error);
    return reject(code, message);
  }
  const { name, template } = spec;
  const service = cluster.state.services[name];
  if (service?.removing === true) return reject("refused", `the service ${name} is being removed`);
  const version = service?.version ?? 0;
  if (version !== expectedVersion)
    return reject(
      "refused",
      service === undefined
        ? `the service ${name} was removed by somebody else just now: look again ("godwit diff") and apply`
        : `the service ${name} was changed by somebody else just now (version ${version}, not ${expectedVersion}): look again ("godwit diff") and apply`,
    );
  if (template === undefined || imageOf(cluster, template) === undefined)
    return reject("not-found", `there is no image ${template?.image ?? ""}: "godwit image ls" lists them`);
  return undefined;
};

/** What becomes of a service that is there. */
const update = (cluster: Cluster, service: Service, spec: ServiceSpec, atMs: number): void => {
  const { template } = spec;
  const before = service.spec?.template;
  if (template === undefined || before === undefined) return;
  change(cluster, service, () => {
    const isNew = templateChange(before, template) !== "none";
    const isStuck = service.rollout?.state === RolloutState.PAUSED;
    if (!isNew && !isStuck && service.spec !== undefined && sameValue(service.spec, spec)) return;
    service.spec = spec;
    service.version += 1;
    if (isNew) {
      service.lastRevision += 1;
      service.revision = service.lastRevision;
      remember(service, template, atMs);
    }
    // A roll-out that stands still begins again: somebody has looked at it and wants it.
    if (isNew || isStuck) service.rollout = rollout(RolloutState.RUNNING, atMs);
  });
};

const create = (cluster: Cluster, spec: ServiceSpec, atMs: number): void => {
  const { name, template } = spec;
  if (template === undefined) return;
  reindexService(cluster, name, () => {
    cluster.state.services[name] = {
      spec,
      version: 1,
      revision: 1,
      lastRevision: 1,
      stableRevision: 0,
      history: [{ revision: 1, template, atMs }],
      rollout: rollout(RolloutState.RUNNING, atMs),
      removing: false,
      createdAtMs: atMs,
    };
  });
};

export const servicesApplied = (
  cluster: Cluster,
  { services }: ServicesApplied,
  { atMs }: ApplyContext,
): Outcome => {
  if (services.length === 0) return reject("invalid", "no service given");
  const names = new Set<string>();
  for (const one of services) {
    const refused = applicationCheck(cluster, one);
    if (refused !== undefined) return refused;
    const name = one.spec?.name ?? "";
    if (names.has(name)) return reject("invalid", `the service ${name} is given twice`);
    names.add(name);
  }
  const added = services.filter(({ spec }) => cluster.state.services[spec?.name ?? ""] === undefined);
  if (Object.keys(cluster.state.services).length + added.length > MAX_SERVICES)
    return reject("exhausted", `there can be no more than ${MAX_SERVICES} services`);
  for (const { spec } of services) {
    if (spec === undefined) continue;
    const service = cluster.state.services[spec.name];
    if (service === undefined) create(cluster, spec, atMs);
    else update(cluster, service, spec, atMs);
  }
  return undefined;
};

export const serviceScaled = (cluster: Cluster, { name, replicas }: ServiceScaled): Outcome => {
  const service = cluster.state.services[name];
  if (service?.spec === undefined) return missing(name);
  if (service.removing) return reject("refused", `the service ${name} is being removed`);
  const spec: ServiceSpec = { ...service.spec, replicas };
  try {
    checkServiceSpec(spec);
  } catch (error) {
    const { code, message } = GodwitError.from(error);
    return reject(code, message);
  }
  if (service.spec.replicas === replicas) return undefined;
  change(cluster, service, () => {
    service.spec = spec;
    service.version += 1;
  });
  return undefined;
};

/** The service's template is that of an earlier revision again. */
const goBack = (service: Service, revision: number, template: ContainerSpec, next: Rollout): void => {
  if (service.spec !== undefined) service.spec = { ...service.spec, template };
  service.revision = revision;
  service.version += 1;
  service.rollout = next;
};

export const serviceRolledBack = (
  cluster: Cluster,
  { name, revision }: ServiceRolledBack,
  { atMs }: ApplyContext,
): Outcome => {
  const service = cluster.state.services[name];
  if (service === undefined) return missing(name);
  if (service.removing) return reject("refused", `the service ${name} is being removed`);
  if (service.revision === revision)
    return reject("refused", `the service ${name} is at revision ${revision} already`);
  const template = service.history.find((one) => one.revision === revision)?.template;
  if (template === undefined)
    return reject(
      "not-found",
      `the service ${name} has no revision ${revision} (any more): "godwit service inspect ${name}" lists those that it can go back to`,
    );
  if (imageOf(cluster, template) === undefined)
    return reject(
      "not-found",
      `the image ${template.image} of revision ${revision} of ${name} is not there any more: import it again and apply`,
    );
  change(cluster, service, () => goBack(service, revision, template, rollout(RolloutState.RUNNING, atMs)));
  return undefined;
};

export const serviceRolloutEnded = (
  cluster: Cluster,
  { failure, name, revision }: ServiceRolloutEnded,
  { atMs }: ApplyContext,
): Outcome => {
  const service = cluster.state.services[name];
  const current = service?.rollout;
  if (service?.spec === undefined || current === undefined) return missing(name);
  if (service.revision !== revision)
    return reject("refused", `the service ${name} is at revision ${service.revision} by now`);
  const { state } = current;
  if (state === RolloutState.DONE || state === RolloutState.ROLLED_BACK)
    return reject("refused", `the roll-out of ${name} has ended already`);
  if (failure === "") {
    change(cluster, service, () => {
      const isBack = state === RolloutState.ROLLING_BACK;
      service.stableRevision = revision;
      service.rollout = {
        ...current,
        state: isBack ? RolloutState.ROLLED_BACK : RolloutState.DONE,
        failure: isBack ? current.failure : "",
        endedAtMs: atMs,
      };
    });
    return undefined;
  }
  if (state === RolloutState.PAUSED) return reject("refused", `the roll-out of ${name} stands still already`);
  const stable = service.history.find((one) => one.revision === service.stableRevision);
  const isRolledBack =
    state === RolloutState.RUNNING &&
    updateRules(service.spec).rollsBack &&
    stable?.template !== undefined &&
    stable.revision !== revision &&
    imageOf(cluster, stable.template) !== undefined;
  change(cluster, service, () => {
    if (isRolledBack && stable?.template !== undefined)
      goBack(
        service,
        stable.revision,
        stable.template,
        rollout(RolloutState.ROLLING_BACK, atMs, { failure, failedRevision: revision }),
      );
    else
      service.rollout = {
        ...current,
        state: RolloutState.PAUSED,
        // Why it went back in the first place is what somebody has to repair.
        failure: current.failure === "" ? failure : `${current.failure}; and going back: ${failure}`,
        failedRevision: current.failedRevision || revision,
        endedAtMs: atMs,
      };
  });
  return undefined;
};

export const serviceRemoveRequested = (cluster: Cluster, { name }: ServiceRemoveRequested): Outcome => {
  const service = cluster.state.services[name];
  if (service === undefined) return missing(name);
  if (service.removing) return undefined;
  change(cluster, service, () => {
    service.removing = true;
    service.version += 1;
  });
  return undefined;
};

export const serviceRemoved = (cluster: Cluster, { name }: ServiceRemoved): Outcome => {
  const service = cluster.state.services[name];
  if (service === undefined) return missing(name);
  if (!service.removing) return reject("refused", `nobody asked to remove the service ${name}`);
  if (cluster.index.ofService.has(name)) return reject("refused", `the service ${name} still has containers`);
  change(cluster, service, () => {
    delete cluster.state.services[name];
  });
  cluster.unsettled.delete(name);
  return undefined;
};
