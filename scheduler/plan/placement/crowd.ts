/** The wish of a service to have its containers apart: a rank for nodes that fit. Pure. */
import type { Container, Node } from "../../../proto/gen/godwit/v1/log.ts";
import { PlacementStrategy } from "../../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "../../state/cluster.ts";
import { countByPlace, placeOf, spreadRulesOf } from "../../state/fit/spread-demand.ts";
import { takesContainers } from "./node-order.ts";
import { strategyOf } from "./score.ts";

/** A node that is in no place comes after all that are in one. */
const NOWHERE = 1_000_000;

/** What is known of one rule of a service's revision, with what is planned. */
interface Counted {
  readonly service: string;
  readonly revision: number;
  readonly label: string;
  /** The container for which it was counted is not in it. */
  readonly counts: Map<string, number>;
  /** Where it may go at all. */
  readonly places: ReadonlySet<string>;
  /** Of the place with the fewest, and how many places have as few; undefined: not counted yet. */
  least: { readonly count: number; places: number } | undefined;
}

/** How many of its like are where a node is; fewer is better. */
export interface Rank {
  readonly of: (name: string, node: Node) => number;
  /** No node has fewer. */
  readonly least: () => number;
}

const leastOf = (counted: Counted): number => {
  if (counted.places.size === 0) return NOWHERE;
  if (counted.least === undefined) {
    const least = { count: Infinity, places: 0 };
    for (const place of counted.places) {
      const count = counted.counts.get(place) ?? 0;
      if (count < least.count) Object.assign(least, { count, places: 1 });
      else if (count === least.count) least.places += 1;
    }
    counted.least = least;
  }
  return counted.least.count;
};

/** Counts of one round: made once a service, and kept up with what is placed in it. */
export class Crowds {
  readonly #cluster: Cluster;
  readonly #counted = new Map<string, Counted>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** Undefined: any node is as good as another. */
  rankFor(container: Container): Rank | undefined {
    const { service } = container;
    if (service === "") return undefined;
    const rules = spreadRulesOf(this.#cluster, container);
    const isPacked = strategyOf(this.#cluster, container) === PlacementStrategy.PACK;
    if (rules.length === 0 && isPacked) return undefined;
    const labels = rules.length === 0 ? [""] : rules.map(({ label }) => label);
    const counted = labels.map((label) => this.#count(container, label));
    return {
      of: (name, node) => {
        let crowd = 0;
        for (const { counts, label } of counted) {
          const place = placeOf(name, node, label);
          crowd += place === undefined ? NOWHERE : (counts.get(place) ?? 0);
        }
        return crowd;
      },
      least: () => counted.reduce((sum, one) => sum + leastOf(one), 0),
    };
  }

  add(nodeName: string, { service, serviceRevision }: Container): void {
    if (service === "") return;
    for (const counted of this.#counted.values()) {
      const { counts, label, least, places } = counted;
      if (counted.service !== service || counted.revision !== serviceRevision) continue;
      const place = placeOf(nodeName, this.#cluster.state.nodes[nodeName], label);
      if (place === undefined) continue;
      const before = counts.get(place) ?? 0;
      counts.set(place, before + 1);
      if (least?.count !== before || !places.has(place)) continue;
      least.places -= 1;
      if (least.places === 0) counted.least = undefined;
    }
  }

  #count(container: Container, label: string): Counted {
    const { allocation, id, service, serviceRevision: revision } = container;
    // One that is somewhere already is not to be held against itself.
    const own = allocation === undefined ? "" : id;
    const key = JSON.stringify([service, revision, label, own]);
    let counted = this.#counted.get(key);
    if (counted === undefined) {
      const counts = countByPlace(this.#cluster, container, label);
      const places = placesOf(this.#cluster, label);
      counted = { service, revision, label, counts, places, least: undefined };
      this.#counted.set(key, counted);
    }
    return counted;
  }
}

const placesOf = ({ state }: Cluster, label: string): Set<string> => {
  const places = new Set<string>();
  for (const name in state.nodes) {
    const node = state.nodes[name];
    if (node === undefined || !takesContainers(node)) continue;
    const place = placeOf(name, node, label);
    if (place !== undefined) places.add(place);
  }
  return places;
};
