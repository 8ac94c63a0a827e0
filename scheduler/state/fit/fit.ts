/** Whether a node takes a container: the one table that placing, moving and `apply` ask. Pure. */
import type { Node } from "../../../proto/gen/godwit/v1/log.ts";
import { useOf } from "../capacity.ts";
import type { Cluster } from "../cluster.ts";
import { ARCHITECTURE, CONSTRAINTS } from "./constraints.ts";
import { NO_CONTAINERS, type Demand, type Spot } from "./demand.ts";
import type { Filter, Obstacle } from "./filter.ts";
import { HOST } from "./host.ts";
import { AFFINITY, ANTI_AFFINITY, PORTS } from "./neighbours.ts";
import { NODE_STATE } from "./node-state.ts";
import { ROOM } from "./room.ts";
import { SPREAD } from "./spread.ts";

/** In the order in which they are asked, and reasons given. */
const FILTERS: readonly Filter[] = [
  NODE_STATE,
  CONSTRAINTS,
  ARCHITECTURE,
  HOST,
  PORTS,
  ANTI_AFFINITY,
  AFFINITY,
  SPREAD,
  ROOM,
];

/** Those that can say no to the demand: what it does not ask for costs nothing per node. */
export const filtersFor = (demand: Demand): readonly Filter[] =>
  FILTERS.filter((filter) => filter.concerns(demand));

/** Those that hold whatever other containers are on the node. */
const LASTING: readonly Filter[] = [NODE_STATE, CONSTRAINTS, ARCHITECTURE, HOST];
export const lastingFiltersFor = (demand: Demand): readonly Filter[] =>
  LASTING.filter((filter) => filter.concerns(demand));

export const firstBlocking = (filters: readonly Filter[], demand: Demand, spot: Spot): Filter | undefined => {
  for (const filter of filters) if (filter.blocks(demand, spot)) return filter;
  return undefined;
};

export const spotOf = (cluster: Cluster, name: string, node: Node): Spot => ({
  name,
  node,
  use: useOf(cluster, name),
  planned: NO_CONTAINERS,
});

/** Everything that keeps the node from taking it. */
export const obstaclesOf = (demand: Demand, spot: Spot): Obstacle[] =>
  filtersFor(demand).flatMap((filter) => filter.obstacles(demand, spot));
