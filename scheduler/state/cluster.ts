/**
 * The state machine's state and what is derived from it.
 *
 * A Cluster is owned by one replica and changed in place: a command either applies in full or is rejected without a
 * change, so no copy is needed to undo one, and the cost of a command does not grow with the number of containers.
 */
import { CheckpointState, type Checkpoint } from "../../proto/gen/godwit/v1/checkpoint.ts";
import type { Container, Migration, Service, State } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationState, State as StateMessage } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec, Resources } from "../../proto/gen/godwit/v1/spec.ts";
import { hostOf } from "../model/network.ts";
import { CompactContainer } from "./compact-container.ts";
import { Templates } from "./compact-spec.ts";
import { isHomeless } from "./failover.ts";
import { touchCheckpoint, touchMigration, touchNode, type Touched, type TouchedPeers } from "./touched.ts";
import {
  countContainer,
  emptyPlacementIndex,
  settleOn,
  type PlacementIndex,
  type PlacementNews,
} from "./placement-index.ts";

/** What is promised to the containers of a node (or on their way to it). */
export interface NodeUse {
  memoryBytes: number;
  cpuMillis: number;
  pids: number;
  diskBytes: number;
  containers: number;
}

/** Derived from the state alone, kept up to date command by command; `clusterOf` builds it anew. */
interface ClusterIndex {
  readonly idByName: Map<string, string>;
  /** Ids of the containers that a node owns. */
  readonly onNode: Map<string, Set<string>>;
  /** Ids of the containers whose running migration goes to the node. */
  readonly arriving: Map<string, Set<string>>;
  /** Ids of the containers that were switched away from the node and whose migration has not finished. */
  readonly leaving: Map<string, Set<string>>;
  readonly use: Map<string, NodeUse>;
  /** Containers without an allocation, or with one on a node that is no more or lost for them. */
  readonly unplaced: Set<string>;
  readonly removing: Set<string>;
  /** Ids of migrations that are running or switched. */
  readonly moving: Set<string>;
  /** Ids of ended migrations, oldest end first (by time, then id). */
  readonly ended: string[];
  readonly draining: Set<string>;
  /** Nodes that are getting back what was evacuated from them. */
  readonly returning: Set<string>;
  /** By digest: how many containers have it, and how often it is in the templates of services. */
  readonly imageUsers: Map<string, number>;
  readonly templates: Templates;
  /** Ids of checkpoints by the node that keeps them, by container, and of those that are being taken. */
  readonly keeping: Map<string, Set<string>>;
  readonly checkpointsOf: Map<string, Set<string>>;
  readonly taking: Set<string>;
  /** Ids of containers of which checkpoints are to be taken again and again. */
  readonly periodic: Set<string>;
  /** Ids of the containers of a service, those that are being removed included. */
  readonly ofService: Map<string, Set<string>>;
  /** `state.recentRequests`. */
  readonly requests: Set<string>;
  readonly placement: PlacementIndex;
}

export interface Cluster {
  readonly state: State;
  readonly index: ClusterIndex;
  /** What of nodes' Desired may have changed; whoever sends them out empties it. */
  readonly touched: Map<string, Touched>;
  /** What nodes have to know of each other. */
  readonly peers: TouchedPeers;
  /** Services of which something has changed; their planner strikes those off that need nothing. */
  readonly unsettled: Set<string>;
  readonly news: PlacementNews;
  /**
   * Nodes that may be another choice than before, by what is on them, what they are or report; for the leader's order of
   * them to empty.
   */
  readonly altered: Set<string>;
}

const add = (map: Map<string, Set<string>>, key: string, id: string): void => {
  const set = map.get(key);
  if (set === undefined) map.set(key, new Set([id]));
  else set.add(id);
};
const remove = (map: Map<string, Set<string>>, key: string, id: string): void => {
  const set = map.get(key);
  set?.delete(id);
  if (set?.size === 0) map.delete(key);
};

const countUser = (users: Map<string, number>, digest: string, sign: 1 | -1): void => {
  const count = (users.get(digest) ?? 0) + sign;
  if (count === 0) users.delete(digest);
  else users.set(digest, count);
};

const NOTHING: Resources = { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0 };
export const limitsOf = (container: Container): Resources => container.spec?.limits ?? NOTHING;
/** Of its next allocation: higher than any that a node may still hold a copy of. */
export const nextEpoch = ({ allocation, releasedEpoch }: Container): number =>
  Math.max(allocation?.epoch ?? 0, releasedEpoch) + 1;
export const nameOf = (container: Container): string => container.spec?.name ?? container.id;

const reserve = (
  { altered, index, news }: Pick<Cluster, "altered" | "index" | "news">,
  node: string,
  container: Container,
  sign: 1 | -1,
): void => {
  altered.add(node);
  settleOn(index.placement, news, node, container, sign);
  const limits = limitsOf(container);
  let use = index.use.get(node);
  if (use === undefined)
    index.use.set(node, (use = { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0, containers: 0 }));
  use.memoryBytes += sign * limits.memoryBytes;
  use.cpuMillis += sign * limits.cpuMillis;
  use.pids += sign * limits.pids;
  use.diskBytes += sign * limits.diskBytes;
  use.containers += sign;
  if (use.containers === 0) index.use.delete(node);
};

/** Enters or takes out everything that the index knows of one container, by what the state says now. */
const indexContainer = (cluster: Cluster, container: Container, sign: 1 | -1): void => {
  const { state, index, news } = cluster;
  countContainer(index.placement, container, sign);
  const { id, spec, allocation } = container;
  const put = sign === 1 ? add : remove;
  if (spec !== undefined) {
    if (sign === 1) index.idByName.set(spec.name, id);
    else index.idByName.delete(spec.name);
    countUser(index.imageUsers, spec.imageDigest, sign);
    index.templates.count(spec, sign);
  }
  if (container.service !== "") {
    put(index.ofService, container.service, id);
    cluster.unsettled.add(container.service);
  }
  if (sign === 1 && (spec?.checkpointEverySeconds ?? 0) > 0) index.periodic.add(id);
  else index.periodic.delete(id);
  if (sign === 1 && container.removing) index.removing.add(id);
  else index.removing.delete(id);
  if (allocation !== undefined) {
    put(index.onNode, allocation.node, id);
    reserve(cluster, allocation.node, container, sign);
    touchNode(cluster, allocation.node, { container: id });
  }
  if (sign === 1 && !container.removing && isHomeless(state.nodes, container)) {
    index.unplaced.add(id);
    news.seeking.add(id);
  } else {
    index.unplaced.delete(id);
    news.seeking.delete(id);
  }

  const migration = container.migrationId === "" ? undefined : state.migrations[container.migrationId];
  if (migration === undefined) return;
  if (migration.state === MigrationState.RUNNING) {
    put(index.arriving, migration.to, id);
    reserve(cluster, migration.to, container, sign);
  } else if (migration.state === MigrationState.SWITCHED) {
    // The frozen copy takes its room until the source says that nothing is left.
    put(index.leaving, migration.from, id);
    reserve(cluster, migration.from, container, sign);
  }
  touchMigration(cluster, migration);
};

export const enter = (cluster: Cluster, container: Container): void => indexContainer(cluster, container, 1);
export const leave = (cluster: Cluster, container: Container): void => indexContainer(cluster, container, -1);

/** The same of one checkpoint; its source and its keepers have orders that name it. */
export const indexCheckpoint = (cluster: Cluster, checkpoint: Checkpoint, sign: 1 | -1): void => {
  const { index } = cluster;
  const { containerId, id, keepers, state } = checkpoint;
  const put = sign === 1 ? add : remove;
  put(index.checkpointsOf, containerId, id);
  if (sign === 1 && state === CheckpointState.TAKING) index.taking.add(id);
  else index.taking.delete(id);
  if (state === CheckpointState.FAILED) return;
  touchCheckpoint(cluster, checkpoint);
  for (const keeper of keepers) put(index.keeping, keeper, id);
};

/** Runs a change of a container (or of its running migration) that the index has to follow. */
export const reindex = (cluster: Cluster, container: Container, change: () => void): void => {
  leave(cluster, container);
  change();
  enter(cluster, container);
};

/** Containers count as placed only on a node that exists, so their index entries follow its coming and going. */
export const reindexNode = (cluster: Cluster, name: string, change: () => void): void => {
  const containers = [...(cluster.index.onNode.get(name) ?? [])].flatMap(
    (id) => cluster.state.containers[id] ?? [],
  );
  for (const container of containers) leave(cluster, container);
  change();
  cluster.altered.add(name);
  for (const container of containers) enter(cluster, container);
};

/** Templates that containers are created from: the present one, and the one that a failed roll-out goes back to. */
const templatesOf = ({ history, revision, stableRevision }: Service): ContainerSpec[] =>
  history
    .filter((one) => one.revision === revision || one.revision === stableRevision)
    .flatMap(({ template }) => template ?? []);

const countTemplates = (cluster: Cluster, name: string, sign: 1 | -1): void => {
  const service = cluster.state.services[name];
  for (const { imageDigest } of service === undefined ? [] : templatesOf(service))
    countUser(cluster.index.imageUsers, imageDigest, sign);
  cluster.unsettled.add(name);
};

/** Runs a change of a service that the index has to follow; `undefined` before: it is new, after: it is gone. */
export const reindexService = (cluster: Cluster, name: string, change: () => void): void => {
  countTemplates(cluster, name, -1);
  change();
  countTemplates(cluster, name, 1);
};

/** The container has a node (again): it is no longer one that waits. Part of a change that is indexed. */
export const endWaiting = ({ news }: Pick<Cluster, "news">, container: Container, atMs: number): void => {
  container.placementFailure = "";
  // What was kept free for it elsewhere is free for others now.
  if (container.nominatedNode !== "") news.freed.add(container.nominatedNode);
  container.nominatedNode = "";
  if (container.preemption?.endedAtMs === 0) container.preemption.endedAtMs = atMs;
};

const before = (a: Migration, b: Migration): boolean =>
  a.endedAtMs === b.endedAtMs ? a.id < b.id : a.endedAtMs < b.endedAtMs;

export const insertEnded = (cluster: Cluster, migration: Migration): void => {
  const { ended } = cluster.index;
  let at = ended.length;
  for (; at > 0; at -= 1) {
    const other = cluster.state.migrations[ended[at - 1] ?? ""];
    if (other === undefined || before(other, migration)) break;
  }
  ended.splice(at, 0, migration.id);
};

const isActive = (migration: Migration): boolean =>
  migration.state === MigrationState.RUNNING || migration.state === MigrationState.SWITCHED;

/**
 * A map whose keys are outsiders' words: "constructor" is a valid node name, so the usual object prototype would
 * answer for it.
 */
const bare = <T>(map: { [key: string]: T }): { [key: string]: T } =>
  Object.getPrototypeOf(map) === null ? map : Object.assign(Object.create(null), map);

/** The one string of a name that everybody keeps. */
export const keptName = ({ state }: { readonly state: Pick<State, "nodes"> }, node: string): string =>
  state.nodes[node]?.info?.name ?? node;

/** As the state keeps it; what has been made so already stays as it is. */
export const compacted = (
  state: Pick<State, "nodes">,
  templates: Templates,
  given: Container,
): CompactContainer => {
  if (given instanceof CompactContainer) return given;
  const { allocation, spec } = given;
  const compact = CompactContainer.from(given, hostOf(given.address));
  if (spec !== undefined) compact.spec = templates.compact(spec);
  if (allocation !== undefined) allocation.node = keptName({ state }, allocation.node);
  return compact;
};

/**
 * Takes the state over: it must not be changed by anybody else afterwards.
 * @param templates those that its containers have, where they are compact already
 */
export const clusterOf = (given: State, templates = new Templates()): Cluster => {
  const state: State = {
    ...given,
    nodes: bare(given.nodes),
    images: bare(given.images),
    containers: bare(given.containers),
    migrations: bare(given.migrations),
    services: bare(given.services),
    checkpoints: bare(given.checkpoints),
    recentRequests: [...given.recentRequests],
    projects: bare(given.projects),
  };
  const cluster: Cluster = {
    state,
    index: {
      idByName: new Map(),
      onNode: new Map(),
      arriving: new Map(),
      leaving: new Map(),
      use: new Map(),
      unplaced: new Set(),
      removing: new Set(),
      moving: new Set(),
      ended: [],
      draining: new Set(),
      returning: new Set(),
      imageUsers: new Map(),
      templates,
      ofService: new Map(),
      keeping: new Map(),
      checkpointsOf: new Map(),
      taking: new Set(),
      periodic: new Set(),
      requests: new Set(given.recentRequests),
      placement: emptyPlacementIndex(),
    },
    touched: new Map(),
    peers: { version: 0, changed: new Set() },
    unsettled: new Set(),
    news: { freed: new Set(), gained: new Set(), seeking: new Set() },
    altered: new Set(),
  };
  for (const id of Object.keys(state.containers)) {
    const given = state.containers[id];
    if (given !== undefined) enter(cluster, (state.containers[id] = compacted(state, templates, given)));
  }
  for (const checkpoint of Object.values(state.checkpoints)) indexCheckpoint(cluster, checkpoint, 1);
  for (const name of Object.keys(state.services)) countTemplates(cluster, name, 1);
  const ended: Migration[] = [];
  for (const migration of Object.values(state.migrations)) {
    if (isActive(migration)) cluster.index.moving.add(migration.id);
    else ended.push(migration);
  }
  ended.sort((a, b) => (before(a, b) ? -1 : 1));
  for (const migration of ended) cluster.index.ended.push(migration.id);
  for (const [name, node] of Object.entries(state.nodes)) {
    if (node.drain?.outcome === "") cluster.index.draining.add(name);
    if (node.return?.outcome === "") cluster.index.returning.add(name);
  }
  return cluster;
};

/** Puts another state in the place of a cluster's own. */
export const replaceCluster = (cluster: Cluster, by: Cluster): void => {
  Object.assign(cluster as { -readonly [K in keyof Cluster]: Cluster[K] }, by);
};

export const emptyCluster = (): Cluster => clusterOf(StateMessage.fromPartial({}));
