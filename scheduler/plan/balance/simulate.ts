/** Loads of all nodes as they will be: with what is under way and with what is planned. Pure. */
import { MigrationState, NodeState, type Container, type Node } from "../../../proto/gen/godwit/v1/log.ts";
import { limitsOf, type Cluster } from "../../state/cluster.ts";
import { loadOf, nodeLoadOf, strainOf, type ContainerLoad, type LoadBook, type NodeLoad } from "./load.ts";

/** What a container adds to a node or takes from it, as shares of that node. */
interface Weight {
  readonly cpuMillis: number;
  readonly memoryBytes: number;
}

export const shifted = (load: NodeLoad, { cpuMillis, memoryBytes }: Weight, sign: 1 | -1): NodeLoad => ({
  ...load,
  cpu: Math.max(0, load.cpu + (sign * cpuMillis) / 1_000 / Math.max(0.001, load.cores)),
  memory: Math.max(0, load.memory + (sign * memoryBytes) / Math.max(1, load.memoryBytes)),
});

/** What it would use where it has what it wants: on a node whose containers wait, more than it does now. */
export const weightOf = (container: Container, load: ContainerLoad, from: NodeLoad): Weight => {
  const wanted = load.cpuMillis * (1 + (from.pressure?.cpu ?? 0));
  const limit = limitsOf(container).cpuMillis || Infinity;
  return { cpuMillis: Math.max(load.cpuMillis, Math.min(limit, wanted)), memoryBytes: load.memoryBytes };
};

export interface Effect {
  readonly from: NodeLoad;
  readonly to: NodeLoad;
  /** By how much the two loads come closer to each other. */
  readonly gain: number;
  /** The same if the source's load is less than it seems, or the target's more. */
  readonly gainIfOff: (by: number) => number;
  /** By how much less is waited for, in cores: what a node's cores do takes the longer the more of them is in use. */
  readonly relief: number;
}

const waiting = (load: NodeLoad): number => load.cores * strainOf(load) ** 2;

export const gapOf = (a: NodeLoad, b: NodeLoad): number => Math.abs(loadOf(a) - loadOf(b));

export class Simulation {
  readonly #loads = new Map<string, NodeLoad>();

  /** Of the nodes that report and are not lost; a draining one empties itself and is left out. */
  constructor(cluster: Cluster, book: LoadBook, nowMs: number) {
    for (const [name, node] of Object.entries(cluster.state.nodes)) {
      const usage = book.node(name);
      if (usage === undefined || node.info === undefined || exclusionOf(node) !== undefined) continue;
      if (!book.isSilent(name, nowMs)) this.#loads.set(name, nodeLoadOf(node.info, usage));
    }
    for (const id of cluster.index.moving) {
      const migration = cluster.state.migrations[id];
      if (migration?.state !== MigrationState.RUNNING) continue;
      const load = book.container(migration.containerId);
      const container = cluster.state.containers[migration.containerId];
      if (load !== undefined && container !== undefined)
        this.move(container, load, migration.from, migration.to);
    }
  }

  get loads(): Iterable<NodeLoad> {
    return this.#loads.values();
  }
  get size(): number {
    return this.#loads.size;
  }
  of(name: string): NodeLoad | undefined {
    return this.#loads.get(name);
  }

  /** By the nodes' cores. */
  meanStrain(): number {
    let cores = 0;
    let sum = 0;
    for (const load of this.#loads.values()) {
      cores += load.cores;
      sum += load.cores * strainOf(load);
    }
    return sum / Math.max(0.001, cores);
  }

  effect(container: Container, load: ContainerLoad, from: NodeLoad, to: NodeLoad): Effect {
    const after = {
      from: shifted(from, load, -1),
      to: shifted(to, weightOf(container, load, from), 1),
    };
    // Of what is used, not of what is wanted: that is what can be measured afterwards.
    const gap = loadOf(from) - loadOf(to);
    const closedBy = gap - (loadOf(after.from) - loadOf(shifted(to, load, 1)));
    const gainIfOff = (by: number): number => Math.abs(gap - by) - Math.abs(gap - by - closedBy);
    return {
      ...after,
      gain: gainIfOff(0),
      gainIfOff,
      relief: waiting(from) + waiting(to) - waiting(after.from) - waiting(after.to),
    };
  }

  move(container: Container, load: ContainerLoad, from: string, to: string): void {
    const [source, target] = [this.#loads.get(from), this.#loads.get(to)];
    if (source !== undefined) this.#loads.set(from, shifted(source, load, -1));
    if (target !== undefined)
      this.#loads.set(
        to,
        shifted(target, source === undefined ? load : weightOf(container, load, source), 1),
      );
  }
}

/** Why a node has no part in the balancing at all. */
export const exclusionOf = (node: Node): string | undefined => {
  if (node.state === NodeState.LOST) return "lost";
  return node.drain?.outcome === "" ? "is being drained" : undefined;
};
