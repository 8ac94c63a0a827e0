/** Where a container goes: filters that can explain themselves, then a score. */
import { NodeState, type Container, type Node, type NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { formatBytes, formatCpus } from "../model/quantity.ts";
import { NODE_PIDS, shortageOf, useOf, type Shortage } from "../state/capacity.ts";
import { limitsOf, type Cluster, type NodeUse } from "../state/cluster.ts";

export type Placement =
  | { readonly node: string; readonly failure?: undefined }
  | { readonly node?: undefined; readonly failure: string };

/** Room that has been planned in this round and is not in the log yet. */
export class PlannedUse {
  readonly #cluster: Cluster;
  readonly #extra = new Map<string, NodeUse>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }
  of(node: string): NodeUse {
    const use = useOf(this.#cluster, node);
    const extra = this.#extra.get(node);
    if (extra === undefined) return use;
    return {
      memoryBytes: use.memoryBytes + extra.memoryBytes,
      cpuMillis: use.cpuMillis + extra.cpuMillis,
      pids: use.pids + extra.pids,
      containers: use.containers + extra.containers,
    };
  }
  add(node: string, container: Container): void {
    const limits = limitsOf(container);
    const extra = this.#extra.get(node) ?? { memoryBytes: 0, cpuMillis: 0, pids: 0, containers: 0 };
    extra.memoryBytes += limits.memoryBytes;
    extra.cpuMillis += limits.cpuMillis;
    extra.pids += limits.pids;
    extra.containers += 1;
    this.#extra.set(node, extra);
  }
}

type Obstacle =
  | { readonly kind: "lost" | "cordoned" | "drained" }
  | { readonly kind: "unsuited"; readonly why: string }
  | { readonly kind: Shortage["of"]; readonly shortage: Shortage };

const obstacleOf = (
  node: Node,
  use: NodeUse,
  container: Container,
  unsuited: PlacementOptions["unsuited"],
): Obstacle | undefined => {
  if (node.state === NodeState.LOST) return { kind: "lost" };
  if (!node.schedulable) return { kind: node.drain?.outcome === "" ? "drained" : "cordoned" };
  const why = node.info === undefined ? undefined : unsuited?.(node.info);
  if (why !== undefined) return { kind: "unsuited", why };
  const shortage = shortageOf(node, use, limitsOf(container));
  return shortage === undefined ? undefined : { kind: shortage.of, shortage };
};

const shareOf = (node: Node, use: NodeUse): number =>
  Math.max(
    use.memoryBytes / Math.max(1, node.info?.memoryBytes ?? 0),
    use.cpuMillis / Math.max(1, node.info?.cpuMillis ?? 0),
    use.pids / NODE_PIDS,
  );

const amount = (shortage: Shortage, value: number): string => {
  const shown = Math.max(0, value);
  if (shortage.of === "memory") return formatBytes(shown);
  return shortage.of === "cpus" ? formatCpus(shown) : `${shown} pids`;
};

/** One reason and all the nodes that it holds for: "2 of 3 lack 512 MiB of memory (n2 has most free: 120 MiB)". */
const describe = (obstacles: readonly (readonly [string, Obstacle])[], total: number): string => {
  const count = `${obstacles.length} of ${total}`;
  const first = obstacles[0]?.[1];
  if (first?.kind === "unsuited")
    return obstacles.map(([, one]) => (one.kind === "unsuited" ? one.why : "")).join("; ");
  if (first === undefined || !("shortage" in first)) {
    const words = { lost: "lost", cordoned: "cordoned", drained: "being drained" } as const;
    return `${count} ${words[first?.kind ?? "lost"]}`;
  }
  const { shortage } = first;
  const what =
    shortage.of === "memory"
      ? `${amount(shortage, shortage.wanted)} of memory`
      : amount(shortage, shortage.wanted);
  const free = obstacles.map(([name, other]) => ({
    name,
    free: "shortage" in other ? other.shortage.free : 0,
  }));
  const best = free.reduce((most, next) => (next.free > most.free ? next : most));
  return obstacles.length === 1
    ? `${count} lacks ${what} (has ${amount(shortage, best.free)} free)`
    : `${count} lack ${what} (${best.name} has most free: ${amount(shortage, best.free)})`;
};

export interface PlacementOptions {
  readonly planned?: PlannedUse;
  /** Not considered and not counted, such as the node that the container is on. */
  readonly except?: string;
  /** Taken only when no other node fits. */
  readonly avoid?: ReadonlySet<string>;
  /** The only node that may be taken. */
  readonly only?: string;
  /** Why a node is not one for it, besides room and the node's own state. */
  readonly unsuited?: (info: NodeInfo) => string | undefined;
}

/** The least loaded node that fits (by the share of it that is promised, then containers, then name), or why none does. */
export const choosePlacement = (
  cluster: Cluster,
  container: Container,
  options: PlacementOptions = {},
): Placement => {
  const { only, except, avoid } = options;
  const planned = options.planned ?? new PlannedUse(cluster);
  const candidates = Object.entries(cluster.state.nodes).filter(
    ([name]) => name !== except && (only === undefined || name === only),
  );
  if (candidates.length === 0) {
    if (only !== undefined) return { failure: `no node fits: there is no node ${only}` };
    return {
      failure: `no node fits: ${except === undefined ? "no node has joined yet" : "there is no other node"}`,
    };
  }
  const obstacles = new Map<string, [string, Obstacle][]>();
  let best: { readonly name: string; readonly rank: readonly number[] } | undefined;
  for (const [name, node] of candidates) {
    const use = planned.of(name);
    const obstacle = obstacleOf(node, use, container, options.unsuited);
    if (obstacle !== undefined) {
      const same = obstacles.get(obstacle.kind);
      if (same === undefined) obstacles.set(obstacle.kind, [[name, obstacle]]);
      else same.push([name, obstacle]);
      continue;
    }
    const rank = [avoid?.has(name) === true ? 1 : 0, shareOf(node, use), use.containers];
    if (best === undefined || precedes({ name, rank }, best)) best = { name, rank };
  }
  if (best !== undefined) return { node: best.name };
  const reasons = [...obstacles]
    .toSorted(([kindA, a], [kindB, b]) => b.length - a.length || (kindA < kindB ? -1 : 1))
    .map(([, list]) => describe(list, candidates.length));
  const scope = only === undefined ? "no node fits" : `its node ${only} does not fit`;
  return { failure: `${scope}: ${reasons.join(", ")}` };
};

interface Ranked {
  readonly name: string;
  readonly rank: readonly number[];
}
const precedes = (a: Ranked, b: Ranked): boolean => {
  for (const [at, value] of a.rank.entries()) {
    const other = b.rank[at] ?? 0;
    if (value !== other) return value < other;
  }
  return a.name < b.name;
};
