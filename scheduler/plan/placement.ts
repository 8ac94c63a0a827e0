/** Where a container goes: filters that can explain themselves (state/fit), then a score (placement/score.ts). Pure. */
import type { Container } from "../../proto/gen/godwit/v1/log.ts";
import type { MigrationMode, PlacementStrategy, Resources } from "../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "../state/cluster.ts";
import { demandOf, NO_CONTAINERS, type Demand, type Spot } from "../state/fit/demand.ts";
import type { Filter } from "../state/fit/filter.ts";
import { filtersFor, firstBlocking } from "../state/fit/fit.ts";
import type { Rank } from "./placement/crowd.ts";
import { ReasonTally } from "./placement/explain.ts";
import { showInOrder } from "./placement/node-tree.ts";
import { PlannedUse } from "./placement/planned-use.ts";
import { costOf, heavyPressure, IMAGE_WEIGHT, strategyOf } from "./placement/score.ts";
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
  readonly seen?: Pick<Volatile, "nodes" | "order">;
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

/** With an image on more nodes than this, one of them comes soon enough in the order; fewer are looked at one by one. */
const FEW_HOLDERS = 64;

/** The best so far of the nodes that it was shown: by tier, how many of its service are there, cost, and name. */
class Search {
  best: string | undefined;
  readonly wanted: Resources;
  readonly #cluster: Cluster;
  readonly #options: PlacementOptions;
  readonly #planned: PlannedUse;
  readonly #demand: Demand;
  readonly #filters: readonly Filter[];
  readonly #strategy: PlacementStrategy;
  readonly #digest: string;
  readonly #rank: Rank | undefined;
  readonly #spot: Partial<MutableSpot> = {};
  #tier = 0;
  #crowd = 0;
  #cost = 0;

  constructor(cluster: Cluster, container: Container, options: PlacementOptions, planned: PlannedUse) {
    this.#cluster = cluster;
    this.#options = options;
    this.#planned = planned;
    this.#demand = demandFor(cluster, container, options);
    this.wanted = this.#demand.limits;
    this.#filters = filtersFor(this.#demand);
    this.#strategy = strategyOf(cluster, container);
    this.#digest = container.spec?.imageDigest ?? "";
    this.#rank = planned.crowds.rankFor(container);
  }

  /** Makes nothing. */
  look(name: string): void {
    const { avoid, except, seen } = this.#options;
    const node = this.#cluster.state.nodes[name];
    if (node === undefined || name === except) return;
    const spot = this.#spot;
    spot.name = name;
    spot.node = node;
    spot.use = this.#planned.of(name);
    spot.planned = this.#planned.containersOn(name);
    if (firstBlocking(this.#filters, this.#demand, spot as Spot) !== undefined) return;
    const report = seen?.nodes.get(name);
    const tier = tierOf(avoid?.has(name) === true, heavyPressure(node, report?.report.load) !== undefined);
    if (this.best !== undefined && tier > this.#tier) return;
    const crowd = this.#rank?.of(name, node) ?? 0;
    if (this.best !== undefined && tier === this.#tier && crowd > this.#crowd) return;
    const cost = costOf(this.#strategy, this.#digest, node, spot.use, report);
    const isAhead = tier < this.#tier || crowd < this.#crowd;
    const isBetter = cost < this.#cost || (cost === this.#cost && name < (this.best ?? ""));
    if (this.best !== undefined && !isAhead && !isBetter) return;
    this.best = name;
    this.#tier = tier;
    this.#crowd = crowd;
    this.#cost = cost;
  }

  /** All nodes, in their order, for as long as a better one can come. */
  lookAtAll(): void {
    const { avoid, seen } = this.#options;
    const { images, tree } = this.#planned.order(this.#strategy, seen);
    const holders = images.holders.get(this.#digest);
    const hasFew = (holders?.size ?? 0) + images.unknown.size <= FEW_HOLDERS;
    // What all the others have to fetch, these do not: they may come late in the order and be better.
    if (hasFew)
      for (const there of [holders, images.unknown])
        for (const name of there ?? []) if (avoid?.has(name) !== true) this.look(name);
    const least = this.#rank?.least() ?? 0;
    const addedAtLeast = hasFew ? IMAGE_WEIGHT : 0;
    showInOrder(tree, this.wanted, ({ cost, isPressed, name }) => {
      if (this.best !== undefined) {
        if (isPressed && this.#tier === 0) return false;
        const isAsPressed = isPressed === (this.#tier === 1);
        const atLeast = cost + addedAtLeast;
        const isBehind = atLeast > this.#cost || (atLeast === this.#cost && name > this.best);
        if (isAsPressed && this.#crowd <= least && isBehind) return false;
      }
      if (avoid?.has(name) !== true) this.look(name);
      return true;
    });
    if (this.best === undefined) for (const name of avoid ?? []) this.look(name);
  }
}

/** The best node that fits; undefined: none does. */
export const placeOne = (
  cluster: Cluster,
  container: Container,
  options: PlacementOptions = {},
): string | undefined => {
  const { among, only, planned = new PlannedUse(cluster) } = options;
  const search = new Search(cluster, container, options, planned);
  if (only !== undefined) search.look(only);
  else if (among !== undefined) for (const name of among) search.look(name);
  else search.lookAtAll();
  return search.best;
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
