/** Which containers would have to leave which node for a more important one to fit there. Pure. */
import { MigrationState, type Container, type Node } from "../../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, PreemptionPolicy } from "../../../proto/gen/godwit/v1/spec.ts";
import { labelText } from "../../model/labels.ts";
import { hasRoom } from "../../state/capacity.ts";
import { limitsOf, type Cluster, type NodeUse } from "../../state/cluster.ts";
import { demandOf, hasLabel, NO_CONTAINERS, repels, type Demand } from "../../state/fit/demand.ts";
import { filtersFor, firstBlocking, lastingFiltersFor, spotOf } from "../../state/fit/fit.ts";
import { portKey, priorityOf } from "../../state/placement-index.ts";
import { disruptionCheck, PlannedDisruptions } from "../disruption.ts";
import { findTarget, stayCheck, usualMode, type Seen } from "../movable.ts";
import type { PlannedUse } from "./planned-use.ts";
import { pinOf } from "./waiting-room.ts";

export interface RoomPlan {
  readonly node: string;
  /** To be moved while they run. */
  readonly moves: readonly { readonly container: Container; readonly to: string }[];
  /** To be stopped, because they cannot be moved and may be stopped. */
  readonly stops: readonly Container[];
}

export interface RoomOptions {
  readonly planned: PlannedUse;
  readonly disruptions: PlannedDisruptions;
  /** Ids of those that leave for another one in this round. */
  readonly leaving?: ReadonlySet<string>;
  /** Where to begin, of all nodes in the order of the state. */
  readonly from?: number;
}

/** Nodes that are looked at in one go; the next go begins behind them. */
export const NODES_LOOKED_AT = 512;
/** Nodes for which targets are sought. */
const NODES_TRIED = 8;
/** Containers of a node for which targets are sought. */
const VICTIMS_TRIED = 32;
/** A container whose moves for this one have been aborted so often is not moved for it again. */
const MOVE_ATTEMPTS = 2;

/** Those that nothing but their own importance would keep there. */
const yields = (cluster: Cluster, victim: Container, priority: number): boolean =>
  priorityOf(victim) < priority &&
  victim.spec?.preemption !== PreemptionPolicy.NEVER &&
  victim.migrationId === "" &&
  !victim.removing &&
  !cluster.index.placement.preempted.has(victim.id);

/** Whether the two cannot be on one node, whatever room there is. */
const conflict = (one: Container, other: Container): boolean => {
  if (one.spec?.ports.some((port) => other.spec?.ports.some((taken) => portKey(taken) === portKey(port))))
    return true;
  const repelled = (a: Container, b: Container): boolean =>
    (a.spec?.antiAffinity.length ?? 0) > 0 &&
    Object.entries(b.spec?.labels ?? {}).some(([key, value]) => repels(a, labelText(key, value)));
  return repelled(one, other) || repelled(other, one);
};

const without = (use: Readonly<NodeUse>, leaving: Iterable<Container>): NodeUse => {
  const rest = { ...use };
  for (const container of leaving) {
    const limits = limitsOf(container);
    rest.memoryBytes -= limits.memoryBytes;
    rest.cpuMillis -= limits.cpuMillis;
    rest.pids -= limits.pids;
    rest.diskBytes -= limits.diskBytes;
    rest.containers -= 1;
  }
  return rest;
};

/** Least important first; of equals the larger, so that few have to leave. */
const byImportance = (a: Container, b: Container): number =>
  priorityOf(a) - priorityOf(b) ||
  limitsOf(b).memoryBytes - limitsOf(a).memoryBytes ||
  limitsOf(b).cpuMillis - limitsOf(a).cpuMillis ||
  (a.id < b.id ? -1 : 1);

interface Site {
  readonly name: string;
  readonly node: Node;
  readonly use: Readonly<NodeUse>;
  /** All that are there, come there or have not quite left. */
  readonly here: readonly Container[];
  /** Have to leave in any case. */
  readonly inTheWay: readonly Container[];
  /** Could leave too. */
  readonly others: readonly Container[];
}

const containersAt = (cluster: Cluster, name: string): Container[] => {
  const { index, state } = cluster;
  return [index.onNode, index.arriving, index.leaving].flatMap((map) =>
    [...(map.get(name) ?? [])].flatMap((id) => state.containers[id] ?? []),
  );
};

/** Undefined: even with everybody gone who yields, it would not fit. */
const siteOf = (
  cluster: Cluster,
  demand: Demand,
  name: string,
  node: Node,
  { leaving, planned }: RoomOptions,
): Site | undefined => {
  const { container, limits } = demand;
  // What is planned for this node in this round may be in the way, and the next round knows.
  if (planned.containersOn(name).some((other) => conflict(container, other))) return undefined;
  const here = containersAt(cluster, name);
  const yielding = here.filter(
    (other) => yields(cluster, other, priorityOf(container)) && leaving?.has(other.id) !== true,
  );
  if (yielding.length === 0) return undefined;
  const use = planned.of(name);
  if (!hasRoom(node, without(use, yielding), limits)) return undefined;
  const inTheWay = here.filter((other) => conflict(container, other));
  if (!inTheWay.every((other) => yielding.includes(other))) return undefined;
  const others = yielding.filter((other) => !inTheWay.includes(other)).sort(byImportance);
  return { name, node, use, here, inTheWay, others };
};

/** Whether it has those beside it that it needs when the others have left. */
const keepsCompany = ({ beside }: Demand, { here }: Site, leaving: ReadonlySet<Container>): boolean =>
  beside.every(({ label }) => here.some((other) => !leaving.has(other) && hasLabel(other, label)));

const failedMoves = (cluster: Cluster, forContainerId: string): ReadonlySet<string> => {
  const counts = new Map<string, number>();
  for (const id of cluster.index.ended) {
    const migration = cluster.state.migrations[id];
    if (migration?.forContainerId === forContainerId && migration.state === MigrationState.ABORTED)
      counts.set(migration.containerId, (counts.get(migration.containerId) ?? 0) + 1);
  }
  return new Set([...counts].filter(([, count]) => count >= MOVE_ATTEMPTS).map(([id]) => id));
};

class Attempt {
  readonly #targets = new Map<Container, string>();
  readonly #stops = new Set<Container>();
  readonly #cluster: Cluster;
  readonly #seen: Seen;
  readonly #demand: Demand;
  readonly #site: Site;
  readonly #planned: PlannedUse;
  readonly #failed: ReadonlySet<string>;
  readonly #disruptions: PlannedDisruptions;
  /** Of this attempt alone. */
  readonly #ownDisruptions: PlannedDisruptions;
  #sought = 0;

  constructor(
    cluster: Cluster,
    seen: Seen,
    demand: Demand,
    site: Site,
    { disruptions, planned }: RoomOptions,
    failed: ReadonlySet<string>,
  ) {
    this.#disruptions = disruptions;
    this.#ownDisruptions = new PlannedDisruptions(cluster);
    this.#cluster = cluster;
    this.#seen = seen;
    this.#demand = demand;
    this.#site = site;
    this.#planned = planned.copy();
    this.#failed = failed;
  }

  /** First those that can be moved, then those that have to be stopped, until it fits. */
  plan(): RoomPlan | undefined {
    const { inTheWay, others } = this.#site;
    for (const victim of inTheWay) if (!this.#move(victim) && !this.#stop(victim)) return undefined;
    for (const victim of others) if (!this.#fits()) this.#move(victim);
    for (const victim of others) if (!this.#fits() && !this.#targets.has(victim)) this.#stop(victim);
    if (!this.#fits()) return undefined;
    this.#spare();
    return {
      node: this.#site.name,
      moves: [...this.#targets].map(([container, to]) => ({ container, to })),
      stops: [...this.#stops],
    };
  }

  get #leaving(): ReadonlySet<Container> {
    return new Set([...this.#targets.keys(), ...this.#stops]);
  }

  #fits(leaving = this.#leaving): boolean {
    const { node, use } = this.#site;
    return (
      hasRoom(node, without(use, leaving), this.#demand.limits) &&
      keepsCompany(this.#demand, this.#site, leaving)
    );
  }

  #move(victim: Container): boolean {
    return usualMode(victim) !== MigrationMode.COLD && this.#depart(victim);
  }

  #depart(victim: Container): boolean {
    if (this.#failed.has(victim.id) || this.#sought >= VICTIMS_TRIED) return false;
    if (stayCheck(this.#cluster, this.#seen, victim, false) !== undefined) return false;
    this.#sought += 1;
    const to = findTarget(this.#cluster, this.#seen, victim, { planned: this.#planned });
    if (to === undefined) return false;
    this.#planned.add(to, victim);
    this.#targets.set(victim, to);
    return true;
  }

  /** One that may be stopped may also be moved cold, which is over sooner. */
  #stop(victim: Container): boolean {
    if (victim.spec?.preemption !== PreemptionPolicy.STOP) return false;
    for (const known of [this.#disruptions, this.#ownDisruptions])
      if (disruptionCheck(this.#cluster, known, victim) !== undefined) return false;
    this.#ownDisruptions.add(victim);
    if (usualMode(victim) === MigrationMode.COLD && this.#depart(victim)) return true;
    this.#stops.add(victim);
    return true;
  }

  /** Those that need not leave after all stay; stopped ones and the more important first. */
  #spare(): void {
    const { inTheWay } = this.#site;
    const chosen = [...[...this.#targets.keys()].sort(byImportance), ...[...this.#stops].sort(byImportance)];
    for (const victim of chosen.toReversed()) {
      if (inTheWay.includes(victim)) continue;
      const rest = new Set([...this.#leaving].filter((other) => other !== victim));
      if (!this.#fits(rest)) continue;
      this.#targets.delete(victim);
      this.#stops.delete(victim);
    }
  }
}

/** Compared place by place; less is cheaper. */
const costOf = ({ moves, stops }: RoomPlan): readonly number[] => {
  const all = [...stops, ...moves.map(({ container }) => container)];
  return [
    // -Infinity: nobody is stopped.
    Math.max(...stops.map(priorityOf)),
    stops.length,
    Math.max(...all.map(priorityOf)),
    all.length,
    all.reduce((sum, container) => sum + limitsOf(container).memoryBytes, 0),
  ];
};
const isCheaper = (a: RoomPlan, b: RoomPlan): boolean => {
  const other = costOf(b);
  for (const [at, value] of costOf(a).entries()) {
    const beside = other[at] ?? 0;
    if (value !== beside) return value < beside;
  }
  return a.node < b.node;
};

/** How many of the least important would have to leave, whether they can or not: which nodes to try first. */
const leastLeaving = (demand: Demand, { inTheWay, node, others, use }: Site): readonly [number, number] => {
  const leaving = [...inTheWay];
  for (const victim of others) {
    if (hasRoom(node, without(use, leaving), demand.limits)) break;
    leaving.push(victim);
  }
  return [Math.max(-Infinity, ...leaving.map(priorityOf)), leaving.length];
};

/** The cheapest way to make room for the container; undefined: there is none, or it fits as things are. */
export const planRoom = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  options: RoomOptions,
): RoomPlan | undefined => {
  const { planned, from = 0 } = options;
  const demand = demandOf(cluster, container, { planned: planned.containers });
  const lasting = lastingFiltersFor(demand);
  const all = filtersFor(demand);
  const pin = pinOf(container);
  const names = pin === undefined ? Object.keys(cluster.state.nodes) : [pin];
  const sites: { readonly site: Site; readonly least: readonly [number, number] }[] = [];
  for (let at = 0; at < Math.min(NODES_LOOKED_AT, names.length); at += 1) {
    const name = names[(from + at) % names.length] ?? "";
    const node = cluster.state.nodes[name];
    if (node === undefined) continue;
    const spot = { ...spotOf(cluster, name, node), use: planned.of(name), planned: NO_CONTAINERS };
    if (firstBlocking(lasting, demand, spot) !== undefined) continue;
    if (firstBlocking(all, demand, spot) === undefined && planned.containersOn(name).length === 0)
      return undefined;
    const site = siteOf(cluster, demand, name, node, options);
    if (site !== undefined) sites.push({ site, least: leastLeaving(demand, site) });
  }
  sites.sort(
    (a, b) =>
      Number(b.site.name === container.nominatedNode) - Number(a.site.name === container.nominatedNode) ||
      a.least[0] - b.least[0] ||
      a.least[1] - b.least[1] ||
      (a.site.name < b.site.name ? -1 : 1),
  );
  const failed = failedMoves(cluster, container.id);
  let best: RoomPlan | undefined;
  for (const { site } of sites.slice(0, NODES_TRIED)) {
    const plan = new Attempt(cluster, seen, demand, site, options, failed).plan();
    if (plan !== undefined && (best === undefined || isCheaper(plan, best))) best = plan;
  }
  return best;
};
