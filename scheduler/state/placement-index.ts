/** What placing needs to know at once about the containers of all nodes. Derived from the state, command by command. */
import type { Container } from "../../proto/gen/godwit/v1/log.ts";
import type { PublishedPort } from "../../proto/gen/godwit/v1/spec.ts";
import { labelText, matchText } from "../model/labels.ts";

/** How many containers of a node have, or want nothing to do with, one label. */
export type LabelCounts = ReadonlyMap<string, number>;

export interface ProjectUse {
  memoryBytes: number;
  cpuMillis: number;
  diskBytes: number;
  containers: number;
}

export interface PlacementIndex {
  /** By label, by node: containers that have it. Those that come to the node or leave it count too. */
  readonly labelled: Map<string, Map<string, number>>;
  /** By label, by node: containers that must not be beside it. */
  readonly repelling: Map<string, Map<string, number>>;
  /** By node, by `portKey`: the container that the host's port leads to. */
  readonly ports: Map<string, Map<number, string>>;
  readonly projects: Map<string, ProjectUse>;
  /** Containers of each priority. */
  readonly priorities: Map<number, number>;
  /** Containers that are being stopped to make room for others. */
  readonly preempted: Set<string>;
}

export const emptyPlacementIndex = (): PlacementIndex => ({
  labelled: new Map(),
  repelling: new Map(),
  ports: new Map(),
  projects: new Map(),
  priorities: new Map(),
  preempted: new Set(),
});

/** Changes since placements were last planned. Whoever plans them empties it. */
export interface PlacementNews {
  /** Nodes that may take what they did not take before. */
  readonly freed: Set<string>;
  /** Nodes of which something else has changed: a container that others want to be beside, or it takes no more. */
  readonly gained: Set<string>;
  /** Containers that have come to need a node. */
  readonly seeking: Set<string>;
}

export const DEFAULT_PROJECT = "default";
export const projectOf = (container: Container): string => container.spec?.project || DEFAULT_PROJECT;
export const priorityOf = (container: Container): number => container.spec?.priority ?? 0;
export const portKey = ({ hostPort, protocol }: PublishedPort): number =>
  hostPort * 2 + (protocol === "udp" ? 1 : 0);

const count = (map: Map<string, Map<string, number>>, label: string, node: string, sign: 1 | -1): void => {
  let nodes = map.get(label);
  if (nodes === undefined) map.set(label, (nodes = new Map<string, number>()));
  const next = (nodes.get(node) ?? 0) + sign;
  if (next !== 0) nodes.set(node, next);
  else {
    nodes.delete(node);
    if (nodes.size === 0) map.delete(label);
  }
};

/** Enters a container's presence on a node, or takes it out. */
export const settleOn = (
  index: PlacementIndex,
  news: PlacementNews,
  node: string,
  { id, spec }: Container,
  sign: 1 | -1,
): void => {
  if (sign === -1) news.freed.add(node);
  if (spec === undefined) return;
  let labelled = false;
  for (const key in spec.labels) {
    labelled = true;
    count(index.labelled, labelText(key, spec.labels[key] ?? ""), node, sign);
  }
  if (sign === 1 && labelled) news.gained.add(node);
  for (const match of spec.antiAffinity) count(index.repelling, matchText(match), node, sign);
  for (const port of spec.ports) {
    const key = portKey(port);
    let taken = index.ports.get(node);
    if (sign === 1) {
      if (taken === undefined) index.ports.set(node, (taken = new Map<number, string>()));
      taken.set(key, id);
    } else if (taken?.get(key) === id) {
      taken.delete(key);
      if (taken.size === 0) index.ports.delete(node);
    }
  }
};

/** What does not depend on where a container is. */
export const countContainer = (index: PlacementIndex, container: Container, sign: 1 | -1): void => {
  const project = projectOf(container);
  const limits = container.spec?.limits;
  let use = index.projects.get(project);
  if (use === undefined)
    index.projects.set(project, (use = { memoryBytes: 0, cpuMillis: 0, diskBytes: 0, containers: 0 }));
  use.memoryBytes += sign * (limits?.memoryBytes ?? 0);
  use.cpuMillis += sign * (limits?.cpuMillis ?? 0);
  use.diskBytes += sign * (limits?.diskBytes ?? 0);
  use.containers += sign;
  if (use.containers === 0) index.projects.delete(project);

  const priority = priorityOf(container);
  const alike = (index.priorities.get(priority) ?? 0) + sign;
  if (alike === 0) index.priorities.delete(priority);
  else index.priorities.set(priority, alike);

  const { allocation, preemption } = container;
  if (sign === 1 && allocation !== undefined && preemption?.endedAtMs === 0)
    index.preempted.add(container.id);
  else index.preempted.delete(container.id);
};
