/** Commands about how containers are placed: node labels, projects, the default, and making room for one another. */
import { isName } from "../../proto/contract/ids.ts";
import type {
  AllocationReleased,
  Container,
  ContainerPreempted,
  NodeLabelsSet,
  PlacementDefaultSet,
  ProjectRemoved,
  ProjectSet,
} from "../../proto/gen/godwit/v1/log.ts";
import { PreemptionPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { nodeLabelsFault } from "../model/report-check.ts";
import { nameOf, reindex, type Cluster } from "./cluster.ts";
import { priorityOf } from "./placement-index.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

export const nodeLabelsSet = (cluster: Cluster, { node: name, set, remove }: NodeLabelsSet): Outcome => {
  const node = cluster.state.nodes[name];
  if (node === undefined) return reject("not-found", `there is no node ${name}`);
  const labels = Object.fromEntries(
    Object.entries(node.labels).filter(([key]) => !remove.includes(key) && !Object.hasOwn(set, key)),
  );
  const next = { ...labels, ...set };
  const fault = nodeLabelsFault(next);
  if (fault !== undefined) return reject("invalid", fault);
  node.labels = next;
  cluster.news.freed.add(name);
  return undefined;
};

export const projectSet = (cluster: Cluster, { project }: ProjectSet): Outcome => {
  if (project === undefined || !isName(project.name))
    return reject("invalid", `${JSON.stringify(project?.name.slice(0, 80) ?? "")} is no project name`);
  const { name, ...limits } = project;
  for (const [what, value] of Object.entries(limits))
    if (!Number.isSafeInteger(value) || value < 0)
      return reject("invalid", `the limit ${what} of project ${name} is not a whole number: ${value}`);
  cluster.state.projects[name] = project;
  return undefined;
};

export const projectRemoved = (cluster: Cluster, { name }: ProjectRemoved): Outcome => {
  if (cluster.state.projects[name] === undefined)
    return reject("not-found", `project ${name} has no limits: "godwit project ls" lists those that have`);
  delete cluster.state.projects[name];
  return undefined;
};

export const placementDefaultSet = (cluster: Cluster, { strategy }: PlacementDefaultSet): Outcome => {
  cluster.state.defaultStrategy = strategy;
  return undefined;
};

/** Whether one may lose its place to the other, whatever is done to it. */
export const yieldCheck = (victim: Container, waiting: Container | undefined): Outcome => {
  if (waiting === undefined) return reject("not-found", "the container that room was made for is gone");
  if (priorityOf(victim) >= priorityOf(waiting))
    return reject(
      "refused",
      `${nameOf(victim)} has priority ${priorityOf(victim)} and does not yield to ${nameOf(waiting)} (${priorityOf(waiting)})`,
    );
  if (victim.spec?.preemption === PreemptionPolicy.NEVER)
    return reject("refused", `${nameOf(victim)} yields to nobody (--preemption never)`);
  return undefined;
};

export const containerPreempted = (
  cluster: Cluster,
  { containerId, node, epoch, forContainerId }: ContainerPreempted,
  { atMs }: ApplyContext,
): Outcome => {
  const { state, index } = cluster;
  const container = state.containers[containerId];
  if (container === undefined) return reject("not-found", `there is no container ${containerId}`);
  const { allocation } = container;
  if (allocation?.node !== node || allocation.epoch !== epoch || state.nodes[node] === undefined)
    return reject("refused", `${nameOf(container)} is not on ${node} (any more)`);
  if (container.removing || container.migrationId !== "")
    return reject("refused", `${nameOf(container)} is leaving ${node} already`);
  if (index.placement.preempted.has(containerId))
    return reject("refused", `${nameOf(container)} is being stopped already to make room`);
  const waiting = state.containers[forContainerId];
  const refused = yieldCheck(container, waiting);
  if (refused !== undefined) return refused;
  if (waiting === undefined || !index.unplaced.has(forContainerId))
    return reject("refused", `${forContainerId} has a node: nothing has to make room for it`);
  if (container.spec?.preemption !== PreemptionPolicy.STOP)
    return reject("refused", `${nameOf(container)} may be moved, and not stopped, to make room`);
  reindex(cluster, container, () => {
    container.preemption = {
      forContainerId,
      forName: nameOf(waiting),
      forPriority: priorityOf(waiting),
      node,
      atMs,
      endedAtMs: 0,
    };
  });
  waiting.nominatedNode = node;
  return undefined;
};

export const allocationReleased = (
  cluster: Cluster,
  { containerId, node, epoch }: AllocationReleased,
): Outcome => {
  const container = cluster.state.containers[containerId];
  if (container === undefined) return reject("not-found", `there is no container ${containerId}`);
  const { allocation, preemption } = container;
  if (allocation?.node !== node || allocation.epoch !== epoch)
    return reject("refused", `${node} does not own ${nameOf(container)} (any more)`);
  if (preemption === undefined || !cluster.index.placement.preempted.has(containerId))
    return reject("refused", `${nameOf(container)} was not asked to make room`);
  reindex(cluster, container, () => {
    container.releasedEpoch = epoch;
    container.allocation = undefined;
    container.placementFailure = `stopped on ${node} to make room for ${preemption.forName} (priority ${preemption.forPriority}), and waits for room`;
  });
  return undefined;
};
