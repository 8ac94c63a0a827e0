import type { Container } from "../../../proto/gen/godwit/v1/log.ts";
import { useOf } from "../../state/capacity.ts";
import { Crowds } from "./crowd.ts";
import { limitsOf, type Cluster, type NodeUse } from "../../state/cluster.ts";
import { NO_CONTAINERS } from "../../state/fit/demand.ts";

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
  #nodeNames: readonly string[] | undefined;
  /** How the containers of services lie, those included that are planned. */
  readonly crowds: Crowds;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.crowds = new Crowds(cluster);
  }

  /** Of all nodes: none comes or goes within a round. */
  get nodeNames(): readonly string[] {
    return (this.#nodeNames ??= Object.keys(this.#cluster.state.nodes));
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
    this.crowds.add(node, container);
    if (!hasRules(container)) return;
    this.#all.push(container);
    const there = this.#containers.get(node);
    if (there === undefined) this.#containers.set(node, [container]);
    else there.push(container);
  }
}
