/** The wish of a service to have its containers apart: a rank for nodes that fit. Pure. */
import type { Container, Node } from "../../../proto/gen/godwit/v1/log.ts";
import { PlacementStrategy } from "../../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "../../state/cluster.ts";
import { countByPlace, placeOf, spreadRulesOf } from "../../state/fit/spread-demand.ts";
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
}

/** Counts of one round: made once a service, and kept up with what is placed in it. */
export class Crowds {
  readonly #cluster: Cluster;
  readonly #counted = new Map<string, Counted>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** Undefined: any node is as good as another. Otherwise how many of its like are where the node is; fewer is better. */
  rankFor(container: Container): ((name: string, node: Node) => number) | undefined {
    const { service } = container;
    if (service === "") return undefined;
    const rules = spreadRulesOf(this.#cluster, container);
    const isPacked = strategyOf(this.#cluster, container) === PlacementStrategy.PACK;
    if (rules.length === 0 && isPacked) return undefined;
    const labels = rules.length === 0 ? [""] : rules.map(({ label }) => label);
    const counted = labels.map((label) => this.#count(container, label));
    return (name, node) => {
      let crowd = 0;
      for (const { counts, label } of counted) {
        const place = placeOf(name, node, label);
        crowd += place === undefined ? NOWHERE : (counts.get(place) ?? 0);
      }
      return crowd;
    };
  }

  add(nodeName: string, { service, serviceRevision }: Container): void {
    if (service === "") return;
    for (const { counts, label, ...of } of this.#counted.values()) {
      if (of.service !== service || of.revision !== serviceRevision) continue;
      const place = placeOf(nodeName, this.#cluster.state.nodes[nodeName], label);
      if (place !== undefined) counts.set(place, (counts.get(place) ?? 0) + 1);
    }
  }

  #count(container: Container, label: string): Counted {
    const { allocation, id, service, serviceRevision: revision } = container;
    // One that is somewhere already is not to be held against itself.
    const own = allocation === undefined ? "" : id;
    const key = JSON.stringify([service, revision, label, own]);
    let counted = this.#counted.get(key);
    if (counted === undefined) {
      counted = { service, revision, label, counts: countByPlace(this.#cluster, container, label) };
      this.#counted.set(key, counted);
    }
    return counted;
  }
}
