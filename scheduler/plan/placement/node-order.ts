/**
 * All nodes that take containers, in order, kept up from one round to the next: nodes are held against what was known of
 * them, all of them, or those alone that the cluster says may have changed.
 */
import { NodeState, type Node } from "../../../proto/gen/godwit/v1/log.ts";
import { PlacementStrategy, type Resources } from "../../../proto/gen/godwit/v1/spec.ts";
import { diskOf, NODE_PIDS, useOf } from "../../state/capacity.ts";
import type { Cluster, NodeUse } from "../../state/cluster.ts";
import type { NodeSeen } from "../node-seen.ts";
import type { Volatile } from "../volatile.ts";
import { withCandidate, withoutCandidate, type Candidate, type NodeTree } from "./node-tree.ts";
import { baseCostOf, heavyPressure } from "./score.ts";

export const takesContainers = ({ schedulable, state }: Node): boolean =>
  schedulable && state !== NodeState.LOST;

const freeOf = ({ info, ...node }: Node, use: Readonly<NodeUse>): Resources => ({
  memoryBytes: (info?.memoryBytes ?? 0) - use.memoryBytes,
  cpuMillis: (info?.cpuMillis ?? 0) - use.cpuMillis,
  pids: NODE_PIDS - use.pids,
  diskBytes: diskOf({ info, ...node }) - use.diskBytes,
});

export const candidateOf = (
  strategy: PlacementStrategy,
  name: string,
  node: Node,
  use: Readonly<NodeUse>,
  seen: NodeSeen | undefined,
): Candidate => ({
  name,
  isPressed: heavyPressure(node, seen?.report.load) !== undefined,
  cost: baseCostOf(strategy, node, use, seen),
  free: freeOf(node, use),
});

/** Where an image is, as far as reports say; a node that has not reported is taken to have any. */
export interface ImagePlaces {
  readonly holders: ReadonlyMap<string, ReadonlySet<string>>;
  readonly unknown: ReadonlySet<string>;
}

interface Known {
  info: Node["info"];
  /** A copy. */
  readonly use: NodeUse;
  /** Of its last report. */
  report: NodeSeen["report"] | undefined;
  images: NodeSeen["images"] | undefined;
  takes: boolean;
  /** By strategy, as far as somebody has asked for one. */
  readonly candidates: Map<PlacementStrategy, Candidate>;
}

const isSame = (known: Known, node: Node, use: Readonly<NodeUse>, seen: NodeSeen | undefined): boolean =>
  known.info === node.info &&
  known.report === seen?.report &&
  known.images === seen?.images &&
  known.takes === takesContainers(node) &&
  known.use.memoryBytes === use.memoryBytes &&
  known.use.cpuMillis === use.cpuMillis &&
  known.use.containers === use.containers &&
  known.use.pids === use.pids &&
  known.use.diskBytes === use.diskBytes;

const isAlike = (a: Candidate, b: Candidate): boolean =>
  a.cost === b.cost &&
  a.isPressed === b.isPressed &&
  a.free.memoryBytes === b.free.memoryBytes &&
  a.free.cpuMillis === b.free.cpuMillis &&
  a.free.pids === b.free.pids &&
  a.free.diskBytes === b.free.diskBytes;

export class NodeOrder {
  readonly #known = new Map<string, Known>();
  readonly #trees = new Map<PlacementStrategy, NodeTree>();
  readonly #holders = new Map<string, Set<string>>();
  readonly #unknown = new Set<string>();
  readonly #follows: boolean;
  /** Of the cluster that is followed; another one may differ in everything. */
  #index: Cluster["index"] | undefined;

  /** @param follows whether it may empty what the cluster says to have changed: for one order of a cluster alone */
  constructor({ follows }: { readonly follows: boolean } = { follows: false }) {
    this.#follows = follows;
  }

  get images(): ImagePlaces {
    return { holders: this.#holders, unknown: this.#unknown };
  }

  candidate(strategy: PlacementStrategy, name: string): Candidate | undefined {
    return this.#known.get(name)?.candidates.get(strategy);
  }

  /** As things are. */
  tree(
    strategy: PlacementStrategy,
    cluster: Cluster,
    reports: Pick<Volatile, "nodes"> | undefined,
  ): NodeTree {
    const isNew = !this.#trees.has(strategy);
    if (isNew) this.#trees.set(strategy, undefined);
    const { altered, index, state } = cluster;
    if (this.#follows && !isNew && index === this.#index)
      for (const name of altered) this.#look(name, cluster, reports);
    else {
      for (const name in state.nodes) this.#look(name, cluster, reports, isNew ? strategy : undefined);
      for (const [name, known] of this.#known) if (state.nodes[name] === undefined) this.#forget(name, known);
    }
    if (this.#follows) {
      this.#index = index;
      altered.clear();
    }
    return this.#trees.get(strategy);
  }

  /** @param anew a strategy whose tree has none of the nodes yet */
  #look(
    name: string,
    cluster: Cluster,
    reports: Pick<Volatile, "nodes"> | undefined,
    anew?: PlacementStrategy,
  ): void {
    const node = cluster.state.nodes[name];
    const known = this.#known.get(name);
    if (node === undefined) {
      if (known !== undefined) this.#forget(name, known);
      return;
    }
    const use = useOf(cluster, name);
    const seen = reports?.nodes.get(name);
    if (known === undefined || !isSame(known, node, use, seen)) this.#learn(name, node, use, seen);
    else if (anew !== undefined && known.takes)
      this.#put(anew, known.candidates, candidateOf(anew, name, node, use, seen));
  }

  #learn(name: string, node: Node, use: Readonly<NodeUse>, seen: NodeSeen | undefined): void {
    const takes = takesContainers(node);
    const { info } = node;
    const { images, report } = seen ?? {};
    let known = this.#known.get(name);
    if (known === undefined || known.images !== images) this.#learnImages(name, known?.images, images);
    if (known === undefined) {
      known = { info, use: { ...use }, report, images, takes, candidates: new Map() };
      this.#known.set(name, known);
    } else {
      // In place: this is done for each placement, and what is thrown away then has to be collected.
      Object.assign(known.use, use);
      known.info = info;
      known.report = report;
      known.images = images;
      known.takes = takes;
    }
    for (const strategy of this.#trees.keys())
      if (takes) this.#put(strategy, known.candidates, candidateOf(strategy, name, node, use, seen));
      else this.#take(strategy, known.candidates);
  }

  #learnImages(
    name: string,
    before: NodeSeen["images"] | undefined,
    images: NodeSeen["images"] | undefined,
  ): void {
    for (const digest of before ?? []) {
      const there = this.#holders.get(digest);
      there?.delete(name);
      if (there?.size === 0) this.#holders.delete(digest);
    }
    if (images === undefined) this.#unknown.add(name);
    else this.#unknown.delete(name);
    for (const digest of images ?? []) {
      const there = this.#holders.get(digest);
      if (there === undefined) this.#holders.set(digest, new Set([name]));
      else there.add(name);
    }
  }

  #put(
    strategy: PlacementStrategy,
    candidates: Map<PlacementStrategy, Candidate>,
    candidate: Candidate,
  ): void {
    const before = candidates.get(strategy);
    if (before !== undefined && isAlike(before, candidate)) return;
    this.#take(strategy, candidates);
    candidates.set(strategy, candidate);
    this.#trees.set(strategy, withCandidate(this.#trees.get(strategy), candidate));
  }

  #take(strategy: PlacementStrategy, candidates: Map<PlacementStrategy, Candidate>): void {
    const before = candidates.get(strategy);
    if (before === undefined) return;
    candidates.delete(strategy);
    this.#trees.set(strategy, withoutCandidate(this.#trees.get(strategy), before));
  }

  #forget(name: string, known: Known): void {
    this.#known.delete(name);
    this.#learnImages(name, known.images, undefined);
    this.#unknown.delete(name);
    for (const strategy of this.#trees.keys()) this.#take(strategy, known.candidates);
  }
}
