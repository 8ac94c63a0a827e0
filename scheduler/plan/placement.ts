/** Where a container goes: filters that can explain themselves (state/fit), then a score (placement/score.ts). Pure. */
import type { Container } from "../../proto/gen/godwit/v1/log.ts";
import type { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { useOf } from "../state/capacity.ts";
import type { Cluster } from "../state/cluster.ts";
import { demandOf, NO_CONTAINERS, type Demand, type Spot } from "../state/fit/demand.ts";
import { filtersFor, firstBlocking } from "../state/fit/fit.ts";
import { Crowds } from "./placement/crowd.ts";
import { ReasonTally } from "./placement/explain.ts";
import { PlannedUse } from "./placement/planned-use.ts";
import { costOf, heavyPressure, strategyOf } from "./placement/score.ts";
import type { Volatile } from "./volatile.ts";

export { PlannedUse } from "./placement/planned-use.ts";

export type Placement =
  | { readonly node: string; readonly failure?: undefined }
  | { readonly node?: undefined; readonly failure: string };

export interface PlacementOptions {
  readonly planned?: PlannedUse;
  /** Not considered and not counted, such as the node that the container is on. */
  readonly except?: string;
  /** Taken only when no other node fits. */
  readonly avoid?: ReadonlySet<string>;
  /** The only node that may be taken. */
  readonly only?: string;
  /** The only nodes that are looked at: the others are known not to fit. */
  readonly among?: Iterable<string>;
  /** What nodes report; without it, only what is promised counts. */
  readonly seen?: Pick<Volatile, "nodes">;
  /** What the container uses of the kernel that it runs on. */
  readonly needs?: readonly string[];
  /** Of the move that it is asked for. */
  readonly mode?: MigrationMode;
}

interface MutableSpot extends Spot {
  name: string;
  node: Spot["node"];
  use: Spot["use"];
  planned: Spot["planned"];
}

/** With more nodes than this, the best of so many that fit is good enough: which ones are looked at follows from the id. */
const ENOUGH = 256;

function* from(names: readonly string[], start: number): Generator<string> {
  for (let at = 0; at < names.length; at += 1) yield names[(start + at) % names.length] ?? "";
}

/** FNV-1a, so that containers begin to look at different nodes. */
const numberOf = (id: string): number => {
  let hash = 0x811c9dc5;
  for (let at = 0; at < id.length; at += 1) hash = Math.imul(hash ^ id.charCodeAt(at), 0x01000193);
  return hash >>> 0;
};

const candidatesOf = (
  cluster: Cluster,
  container: Container,
  { among, only, planned }: PlacementOptions,
): Iterable<string> => {
  if (only !== undefined) return [only];
  if (among !== undefined) return among;
  const names = planned?.nodeNames ?? Object.keys(cluster.state.nodes);
  return names.length <= ENOUGH ? names : from(names, numberOf(container.id) % names.length);
};

const demandFor = (
  cluster: Cluster,
  container: Container,
  { mode, needs = [], planned }: PlacementOptions,
): Demand =>
  demandOf(cluster, container, {
    needs,
    planned: planned?.containers ?? NO_CONTAINERS,
    ...(mode === undefined ? {} : { mode }),
  });

/** The node under heavy pressure or to be avoided that would do if no other did: later tiers are worse. */
const tierOf = (isAvoided: boolean, isPressed: boolean): number => (isAvoided ? 2 : 0) + (isPressed ? 1 : 0);

/**
 * The best node that fits, by tier, how many of its service are there, cost, and name; undefined: none does. Of very many
 * nodes that fit it looks at ENOUGH of the best tier. It makes nothing per node.
 */
export const placeOne = (
  cluster: Cluster,
  container: Container,
  options: PlacementOptions = {},
): string | undefined => {
  const { avoid, except, planned, seen } = options;
  const demand = demandFor(cluster, container, options);
  const filters = filtersFor(demand);
  const strategy = strategyOf(cluster, container);
  const digest = container.spec?.imageDigest ?? "";
  const { nodes } = cluster.state;
  const spot: Partial<MutableSpot> = {};
  let best: string | undefined;
  let bestTier = 0;
  let bestCost = 0;
  let bestCrowd = 0;
  const rank = (planned?.crowds ?? new Crowds(cluster)).rankFor(container);
  let fitting = 0;
  for (const name of candidatesOf(cluster, container, options)) {
    const node = nodes[name];
    if (node === undefined || name === except) continue;
    spot.name = name;
    spot.node = node;
    spot.use = planned === undefined ? useOf(cluster, name) : planned.of(name);
    spot.planned = planned === undefined ? NO_CONTAINERS : planned.containersOn(name);
    if (firstBlocking(filters, demand, spot as Spot) !== undefined) continue;
    const report = seen?.nodes.get(name);
    const tier = tierOf(avoid?.has(name) === true, heavyPressure(node, report?.report.load) !== undefined);
    if (tier === 0) fitting += 1;
    if (fitting > ENOUGH) break;
    if (best !== undefined && tier > bestTier) continue;
    const crowd = rank?.(name, node) ?? 0;
    if (best !== undefined && tier === bestTier && crowd > bestCrowd) continue;
    const cost = costOf(strategy, digest, node, spot.use, report);
    const isAhead = tier < bestTier || crowd < bestCrowd;
    if (best === undefined || isAhead || cost < bestCost || (cost === bestCost && name < best)) {
      best = name;
      bestTier = tier;
      bestCrowd = crowd;
      bestCost = cost;
    }
  }
  return best;
};

/** Why no node fits. Looks at every node again, so it is asked only when somebody wants to know. */
export const explainFailure = (
  cluster: Cluster,
  container: Container,
  options: PlacementOptions = {},
): string => {
  const { except, only, planned = new PlannedUse(cluster) } = options;
  const { nodes } = cluster.state;
  if (only !== undefined && nodes[only] === undefined) return `no node fits: there is no node ${only}`;
  const demand = demandFor(cluster, container, options);
  const filters = filtersFor(demand);
  const tally = new ReasonTally();
  let count = 0;
  for (const name of only === undefined ? Object.keys(nodes) : [only]) {
    const node = nodes[name];
    if (node === undefined || name === except) continue;
    count += 1;
    const spot = { name, node, use: planned.of(name), planned: planned.containersOn(name) };
    // The first is enough here: it has to go before another one matters.
    const [first] = firstBlocking(filters, demand, spot)?.obstacles(demand, spot) ?? [];
    tally.add(name, first === undefined ? [] : [first]);
  }
  if (count === 0)
    return `no node fits: ${except === undefined ? "no node has joined yet" : "there is no other node"}`;
  const scope = only === undefined ? "no node fits" : `its node ${only} does not fit`;
  return `${scope}: ${tally.summary() || "what was planned at the same time takes the room"}`;
};

/** The best node, or why there is none. */
export const choosePlacement = (
  cluster: Cluster,
  container: Container,
  options: PlacementOptions = {},
): Placement => {
  const node = placeOne(cluster, container, options);
  return node === undefined ? { failure: explainFailure(cluster, container, options) } : { node };
};
