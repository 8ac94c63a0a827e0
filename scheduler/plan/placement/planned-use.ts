import type { Container } from "../../../proto/gen/godwit/v1/log.ts";
import { useOf } from "../../state/capacity.ts";
import { Crowds } from "./crowd.ts";
import { limitsOf, type Cluster, type NodeUse } from "../../state/cluster.ts";
import { NO_CONTAINERS } from "../../state/fit/demand.ts";
import type { PlacementStrategy } from "../../../proto/gen/godwit/v1/spec.ts";
import type { Volatile } from "../volatile.ts";
import { candidateOf, NodeOrder, type ImagePlaces } from "./node-order.ts";
import { withCandidate, withoutCandidate, type Candidate, type NodeTree } from "./node-tree.ts";

type Seen = Pick<Volatile, "nodes" | "order">;

interface PlannedOrder {
  tree: NodeTree;
  readonly images: ImagePlaces;
  readonly all: Pick<NodeOrder, "candidate">;
  readonly seen: Seen | undefined;
  /** Nodes on which something is planned, as they are in the tree. */
  readonly changed: Map<string, Candidate>;
}

const hasRules = ({ spec }: Container): boolean => {
  if (spec === undefined) return false;
  if (spec.ports.length > 0 || spec.antiAffinity.length > 0) return true;
  return Object.keys(spec.labels).length > 0;
};

/** Room that has been planned in this round and is not in the log yet. */
export class PlannedUse {
  readonly #cluster: Cluster;
  readonly #use = new Map<string, NodeUse>();
  readonly #containers = new Map<string, Container[]>();
  readonly #all: Container[] = [];
  readonly #orders = new Map<PlacementStrategy, PlannedOrder>();
  /** How the containers of services lie, those included that are planned. */
  readonly crowds: Crowds;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.crowds = new Crowds(cluster);
  }

  /** The nodes in their order, with what is planned. Of one plan, always with the same reports. */
  order(strategy: PlacementStrategy, seen: Seen | undefined): Pick<PlannedOrder, "images" | "tree"> {
    let order = this.#orders.get(strategy);
    if (order === undefined) {
      const all = seen?.order ?? new NodeOrder();
      const tree = all.tree(strategy, this.#cluster, seen);
      order = { tree, images: all.images, all, seen, changed: new Map() };
      for (const [name, use] of this.#use) this.#reorder(strategy, order, name, use);
      this.#orders.set(strategy, order);
    }
    return order;
  }

  #reorder(strategy: PlacementStrategy, order: PlannedOrder, name: string, use: Readonly<NodeUse>): void {
    const before = order.changed.get(name) ?? order.all.candidate(strategy, name);
    const node = this.#cluster.state.nodes[name];
    // One that takes no containers is not in the order.
    if (before === undefined || node === undefined) return;
    const now = candidateOf(strategy, name, node, use, order.seen?.nodes.get(name));
    order.changed.set(name, now);
    order.tree = withCandidate(withoutCandidate(order.tree, before), now);
  }

  /** To try something out. */
  copy(): PlannedUse {
    const copy = new PlannedUse(this.#cluster);
    for (const [node, use] of this.#use) copy.#use.set(node, { ...use });
    for (const [node, containers] of this.#containers) copy.#containers.set(node, [...containers]);
    copy.#all.push(...this.#all);
    return copy;
  }

  of(node: string): Readonly<NodeUse> {
    return this.#use.get(node) ?? useOf(this.#cluster, node);
  }
  /** Those of them that others may have rules about, or that have rules themselves. */
  containersOn(node: string): readonly Container[] {
    return this.#containers.get(node) ?? NO_CONTAINERS;
  }
  get containers(): readonly Container[] {
    return this.#all;
  }

  add(node: string, container: Container): void {
    const limits = limitsOf(container);
    let use = this.#use.get(node);
    if (use === undefined) this.#use.set(node, (use = { ...useOf(this.#cluster, node) }));
    use.memoryBytes += limits.memoryBytes;
    use.cpuMillis += limits.cpuMillis;
    use.pids += limits.pids;
    use.diskBytes += limits.diskBytes;
    use.containers += 1;
    for (const [strategy, order] of this.#orders) this.#reorder(strategy, order, node, use);
    this.crowds.add(node, container);
    if (!hasRules(container)) return;
    this.#all.push(container);
    const there = this.#containers.get(node);
    if (there === undefined) this.#containers.set(node, [container]);
    else there.push(container);
  }
}
