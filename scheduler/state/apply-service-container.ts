import {
  DesiredState,
  type ServiceContainerAmended,
  type ServiceContainerCreated,
  type ServiceContainerRetired,
} from "../../proto/gen/godwit/v1/log.ts";
import { templateChange } from "../model/service-policy.ts";
import { containerCreated, touch } from "./apply-container.ts";
import { nameOf, reindex, type Cluster } from "./cluster.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

const overtaken = (service: string): Outcome =>
  reject("refused", `the service ${service} has been changed meanwhile`);

export const serviceContainerCreated = (
  cluster: Cluster,
  { id, name, revision, service: serviceName }: ServiceContainerCreated,
  context: ApplyContext,
): Outcome => {
  const service = cluster.state.services[serviceName];
  if (service === undefined) return reject("not-found", `there is no service ${serviceName}`);
  if (service.removing || service.revision !== revision) return overtaken(serviceName);
  const template = service.spec?.template;
  if (template === undefined) return reject("invalid", `the service ${serviceName} has no template`);
  return containerCreated(cluster, { id, spec: { ...template, name } }, context, {
    service: serviceName,
    revision,
  });
};

export const serviceContainerRetired = (cluster: Cluster, { id }: ServiceContainerRetired): Outcome => {
  const container = cluster.state.containers[id];
  if (container === undefined) return reject("not-found", `there is no container ${id}`);
  if (container.service === "") return reject("refused", `${nameOf(container)} belongs to no service`);
  if (container.removing || container.retiring)
    return reject("refused", `${nameOf(container)} is on its way out already`);
  if (container.migrationId !== "") return reject("refused", `${nameOf(container)} is moving`);
  reindex(cluster, container, () => {
    container.retiring = true;
    container.desired = DesiredState.STOPPED;
  });
  touch(cluster, container);
  return undefined;
};

export const serviceContainerAmended = (
  cluster: Cluster,
  { id, revision }: ServiceContainerAmended,
): Outcome => {
  const container = cluster.state.containers[id];
  if (container === undefined) return reject("not-found", `there is no container ${id}`);
  const service = cluster.state.services[container.service];
  const template = service?.spec?.template;
  if (template === undefined || container.spec === undefined)
    return reject("refused", `${nameOf(container)} belongs to no service`);
  if (service?.revision !== revision) return overtaken(container.service);
  if (container.removing || container.retiring)
    return reject("refused", `${nameOf(container)} is on its way out`);
  if (container.migrationId !== "") return reject("refused", `${nameOf(container)} is moving`);
  const { name, node } = container.spec;
  if (templateChange(container.spec, template) === "rolling")
    return reject("refused", `${nameOf(container)} has to be replaced for what has changed`);
  reindex(cluster, container, () => {
    container.spec = cluster.index.templates.compact({ ...template, name, node });
    container.serviceRevision = revision;
  });
  return undefined;
};
