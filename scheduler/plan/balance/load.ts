/**
 * What containers and nodes use, smoothed, from one report after the other. A container's figures go with it when it
 * moves, and a node's are the sum of its containers': a move changes both nodes' loads at once, not when the
 * smoothing has caught up, so that nobody acts twice on one and the same load. Pure: time is an argument.
 */
import type { Load, ObservedAllocation } from "../../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, type NodeInfo } from "../../../proto/gen/godwit/v1/log.ts";
import { balanceSettingsOf } from "../../state/apply-balance.ts";
import type { Cluster } from "../../state/cluster.ts";

const SAMPLES_PER_HALF_LIFE = 6;
const MIN_SPACING_MS = 200;
const MAX_SPACING_MS = 5_000;
/** Beyond what it is due, a node's report is late by so much before it counts as silent. */
const LATE_MS = 10_000;
/** A node's sums are added up anew after so many. */
const SAMPLES_PER_COUNT = 64;
/** No cgroup uses more than its host has, but for the two being read a moment apart. */
const MOST_OF_NODE = 1.05;

/** Shares (0 to 1) of the time in which something waited; absent: not reported. */
export interface Pressure {
  readonly cpu: number;
  readonly memory: number;
  readonly io: number;
}

export interface ContainerLoad {
  readonly node: string;
  /** Smoothed. */
  readonly cpuMillis: number;
  readonly memoryBytes: number;
  /** Between the last two samples. */
  readonly recentCpuMillis: number;
  /** How long its CPU has been watched; 0: only its memory is known. */
  readonly watchedMs: number;
  /** The same, since it has been on this node. */
  readonly watchedHereMs: number;
}

export interface NodeUsage {
  /** Sums of its containers' smoothed figures. */
  readonly cpuMillis: number;
  readonly memoryBytes: number;
  readonly recentCpuMillis: number;
  /** How far the smoothed CPU is likely to be off, by how much the samples differ from it. */
  readonly noiseMillis: number;
  readonly pressure: Pressure | undefined;
  /** When it was last sampled. */
  readonly atMs: number;
  readonly watchedMs: number;
}

class ContainerEntry implements ContainerLoad {
  readonly id: string;
  node: string;
  cpuMillis = 0;
  memoryBytes = 0;
  recentCpuMillis = 0;
  watchedMs = 0;
  watchedHereMs = 0;
  /** The counter at the last sample; undefined: the next one only begins anew. */
  baseUsec: number | undefined;
  /** When that was, by its host's clock; undefined: it has not been sampled. */
  clockMs: number | undefined;

  constructor(id: string, node: string) {
    this.id = id;
    this.node = node;
  }
}

class NodeEntry implements NodeUsage {
  cpuMillis = 0;
  memoryBytes = 0;
  recentCpuMillis = 0;
  noiseMillis = 0;
  /** Of a single sample. */
  deviationMillis = 0;
  pressure: Pressure | undefined;
  atMs: number;
  clockMs: number;
  /** Reports that come sooner are left alone. */
  spacingMs = MAX_SPACING_MS;
  watchedMs = 0;
  samples = 0;
  readonly containers = new Set<ContainerEntry>();

  constructor(atMs: number, clockMs: number) {
    this.atMs = atMs;
    this.clockMs = clockMs;
  }
}

const measured = (value: number): number => (Number.isFinite(value) && value > 0 ? value : 0);

/**
 * The weight of a new sample: halves the past each half-life, and a plain mean while little is known.
 * @param share what the half-life gives to the time that has passed
 */
const weightOf = (share: number, elapsedMs: number, watchedMs: number): number =>
  Math.max(share, elapsedMs / (watchedMs + elapsedMs));

const OVER: ReadonlySet<AllocationState> = new Set([AllocationState.EXITED, AllocationState.FAILED]);

/** What a report tells of the use of its node and of some of its containers. */
export interface LoadNews {
  readonly info: Pick<NodeInfo, "cpuMillis"> | undefined;
  readonly load: Load | undefined;
  /** Containers that have changed otherwise. */
  readonly listed: readonly ObservedAllocation[];
  readonly used: readonly ObservedAllocation[];
  /** Containers that are not there any more. */
  readonly gone: readonly string[];
}

export class LoadBook {
  readonly #containers = new Map<string, ContainerEntry>();
  readonly #nodes = new Map<string, NodeEntry>();

  container(id: string): ContainerLoad | undefined {
    return this.#containers.get(id);
  }
  node(name: string): NodeUsage | undefined {
    return this.#nodes.get(name);
  }
  /** A node that has not been sampled lately: nobody knows what it does. */
  isSilent(name: string, nowMs: number): boolean {
    const entry = this.#nodes.get(name);
    return entry === undefined || nowMs - entry.atMs > entry.spacingMs + LATE_MS;
  }

  /** Takes in what a report tells; what was sampled only a moment ago is left alone. */
  accept(cluster: Cluster, name: string, news: LoadNews, nowMs: number): void {
    const { smoothingMs } = balanceSettingsOf(cluster.state);
    const { gone, info, listed, load, used } = news;
    // The agent's clock does not know how long the report was under way or waited to be read.
    const clockMs = measured(load?.measuredAtMs ?? 0) || nowMs;
    let entry = this.#nodes.get(name);
    const isFirst = entry === undefined;
    if (entry === undefined) this.#nodes.set(name, (entry = new NodeEntry(nowMs, clockMs)));
    entry.spacingMs = Math.min(MAX_SPACING_MS, Math.max(MIN_SPACING_MS, smoothingMs / SAMPLES_PER_HALF_LIFE));
    const terms: SampleTerms = {
      clockMs,
      spacingMs: entry.spacingMs,
      halfLifeMs: smoothingMs,
      mostMillis: (info?.cpuMillis ?? 0) * MOST_OF_NODE,
    };
    // This is done for each container of the cluster every few seconds, so it looks up as little as it can.
    const here = cluster.index.onNode.get(name);
    for (const some of [listed, used])
      for (const observed of some) {
        // A target lists what arrives, and a source what it still holds frozen: it counts where it belongs to.
        if (here?.has(observed.containerId) === true) this.#sample(cluster, entry, name, observed, terms);
        else this.relocate(cluster, observed.containerId);
      }
    for (const id of gone) this.#leave(cluster, name, id);
    if (isFirst) this.#smoothPressure(entry, load, 0, smoothingMs);
    else this.#sampleNode(entry, load, terms, nowMs);
  }

  #sample(
    cluster: Cluster,
    entry: NodeEntry,
    name: string,
    observed: ObservedAllocation,
    terms: SampleTerms,
  ): void {
    const one = this.#entry(observed.containerId, name);
    this.#settle(one, name);
    entry.containers.add(one);
    const { cpuMillis, memoryBytes, recentCpuMillis } = one;
    smooth(one, observed, terms, isMoving(cluster, one.id));
    entry.cpuMillis += one.cpuMillis - cpuMillis;
    entry.memoryBytes += one.memoryBytes - memoryBytes;
    entry.recentCpuMillis += one.recentCpuMillis - recentCpuMillis;
  }

  /** Its node does not list it any more: it counts where it belongs to, if that is known to somebody. */
  #leave(cluster: Cluster, name: string, id: string): void {
    const one = this.#containers.get(id);
    if (one?.node !== name) return;
    const owner = cluster.state.containers[id]?.allocation?.node;
    if (owner !== undefined && owner !== name && this.#nodes.has(owner)) this.#settle(one, owner);
    else {
      this.#count(one, name, -1);
      this.#containers.delete(id);
    }
  }

  #sampleNode(entry: NodeEntry, load: Load | undefined, terms: SampleTerms, nowMs: number): void {
    const sinceMs = terms.clockMs - entry.clockMs;
    // Back in time: the host was started anew, and its counters with it.
    if (sinceMs >= 0 && sinceMs < entry.spacingMs) return;
    const elapsedMs = Math.max(0, sinceMs);
    entry.atMs = nowMs;
    entry.clockMs = terms.clockMs;
    this.#smoothPressure(entry, load, elapsedMs, terms.halfLifeMs);
    entry.watchedMs += elapsedMs;
    if (elapsedMs === 0) return;
    entry.samples += 1;
    if (entry.samples % SAMPLES_PER_COUNT === 0) recount(entry);
    const weight = weightOf(shareOf(elapsedMs, terms.halfLifeMs), elapsedMs, entry.watchedMs - elapsedMs);
    const off = Math.abs(entry.recentCpuMillis - entry.cpuMillis);
    entry.deviationMillis += weight * (off - entry.deviationMillis);
    // The standard error of an exponentially weighted mean of independent samples.
    entry.noiseMillis = entry.deviationMillis * Math.sqrt(weight / (2 - weight));
  }

  #smoothPressure(entry: NodeEntry, load: Load | undefined, elapsedMs: number, halfLifeMs: number): void {
    const now = pressureOf(load);
    const before = entry.pressure;
    if (now === undefined || before === undefined) {
      entry.pressure = now;
      return;
    }
    const weight = weightOf(shareOf(elapsedMs, halfLifeMs), elapsedMs, entry.watchedMs) || 0;
    const mixed = (kind: keyof Pressure): number => before[kind] + weight * (now[kind] - before[kind]);
    entry.pressure = { cpu: mixed("cpu"), memory: mixed("memory"), io: mixed("io") };
  }

  /** Ownership has moved: what the container uses is the new node's from now on. */
  relocate(cluster: Cluster, containerId: string): void {
    const owner = cluster.state.containers[containerId]?.allocation?.node;
    const one = this.#containers.get(containerId);
    if (one !== undefined && owner !== undefined && this.#nodes.has(owner)) this.#settle(one, owner);
  }

  /** Counts the container on that node. Its counters begin anew there, what is known of it does not. */
  #settle(one: ContainerEntry, name: string): void {
    if (one.node === name) return;
    this.#count(one, one.node, -1);
    this.#count(one, name, 1);
    one.node = name;
    one.baseUsec = one.clockMs = undefined;
    one.watchedHereMs = 0;
  }
  #count(one: ContainerEntry, name: string, sign: 1 | -1): void {
    const node = this.#nodes.get(name);
    if (node === undefined) return;
    if (sign === 1) node.containers.add(one);
    else if (!node.containers.delete(one)) return;
    node.cpuMillis = Math.max(0, node.cpuMillis + sign * one.cpuMillis);
    node.memoryBytes = Math.max(0, node.memoryBytes + sign * one.memoryBytes);
    node.recentCpuMillis = Math.max(0, node.recentCpuMillis + sign * one.recentCpuMillis);
  }

  /** Nodes that are no more. */
  forget(cluster: Cluster): void {
    for (const [name, entry] of this.#nodes) {
      if (cluster.state.nodes[name] !== undefined) continue;
      this.#nodes.delete(name);
      for (const one of entry.containers) if (one.node === name) this.#containers.delete(one.id);
    }
  }

  #entry(id: string, node: string): ContainerEntry {
    let one = this.#containers.get(id);
    if (one === undefined) this.#containers.set(id, (one = new ContainerEntry(id, node)));
    return one;
  }
}

/** It stands still or is slowed down for moments that say nothing about it. */
const isMoving = ({ index, state }: Cluster, containerId: string): boolean =>
  index.moving.size > 0 && state.containers[containerId]?.migrationId !== "";

interface SampleTerms {
  /** When it was measured. */
  readonly clockMs: number;
  readonly spacingMs: number;
  readonly halfLifeMs: number;
  readonly mostMillis: number;
}

/** What the half-life gives to the time that has passed. */
const shareOf = (elapsedMs: number, halfLifeMs: number): number => 1 - 2 ** (-elapsedMs / halfLifeMs);

/** Sums to which is added and from which is taken a great many times would drift. */
const recount = (entry: NodeEntry): void => {
  entry.cpuMillis = entry.memoryBytes = entry.recentCpuMillis = 0;
  for (const one of entry.containers) {
    entry.cpuMillis += one.cpuMillis;
    entry.memoryBytes += one.memoryBytes;
    entry.recentCpuMillis += one.recentCpuMillis;
  }
};

const smooth = (
  one: ContainerEntry,
  observed: ObservedAllocation,
  terms: SampleTerms,
  isMoving: boolean,
): void => {
  if (OVER.has(observed.state)) {
    one.cpuMillis = one.memoryBytes = one.recentCpuMillis = one.watchedMs = one.watchedHereMs = 0;
    one.baseUsec = one.clockMs = undefined;
    return;
  }
  const sinceMs = terms.clockMs - (one.clockMs ?? terms.clockMs);
  if (one.clockMs !== undefined && sinceMs >= 0 && sinceMs < terms.spacingMs) return;
  one.clockMs = terms.clockMs;
  // Back in time: the host was started anew, and its counters with it.
  const elapsedMs = Math.max(0, sinceMs);
  const share = shareOf(elapsedMs, terms.halfLifeMs);
  const usec = measured(observed.cpuUsageUsec);
  const memory = measured(observed.memoryBytes);
  const base = one.baseUsec;
  one.baseUsec = usec;
  if (one.memoryBytes === 0 || elapsedMs === 0) one.memoryBytes = memory;
  else {
    one.memoryBytes += weightOf(share, elapsedMs, one.watchedMs) * (memory - one.memoryBytes);
  }
  // A counter that has fallen is another one: it was started anew.
  if (base === undefined || usec < base || elapsedMs === 0 || isMoving) return;
  const rate = Math.min((usec - base) / elapsedMs, terms.mostMillis);
  one.recentCpuMillis = rate;
  one.cpuMillis += weightOf(share, elapsedMs, one.watchedMs) * (rate - one.cpuMillis);
  one.watchedMs += elapsedMs;
  one.watchedHereMs += elapsedMs;
};

/** PSI as the agent reports it, in percent of the last ten seconds. */
export const pressureOf = (load: Load | undefined): Pressure | undefined => {
  const pressure = load?.pressure;
  if (pressure === undefined) return undefined;
  const share = (averages: { readonly avg10: number } | undefined): number => (averages?.avg10 ?? 0) / 100;
  return {
    cpu: share(pressure.cpuSome),
    memory: share(pressure.memorySome),
    io: share(pressure.ioSome),
  };
};

export interface NodeLoad {
  readonly node: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** Shares of the node. */
  readonly cpu: number;
  readonly memory: number;
  /** How far `cpu` is likely to be off. */
  readonly noise: number;
  readonly pressure: Pressure | undefined;
}

export const nodeLoadOf = (info: NodeInfo, usage: NodeUsage): NodeLoad => ({
  node: info.name,
  cores: info.cpuMillis / 1_000,
  memoryBytes: info.memoryBytes,
  cpu: usage.cpuMillis / Math.max(1, info.cpuMillis),
  memory: usage.memoryBytes / Math.max(1, info.memoryBytes),
  noise: usage.noiseMillis / Math.max(1, info.cpuMillis),
  pressure: usage.pressure,
});

/** What of a node is used, by the resource that most is used of. */
export const loadOf = ({ cpu, memory }: Pick<NodeLoad, "cpu" | "memory">): number => Math.max(cpu, memory);

/** The load as those feel it that wait: a node that is full cannot show what it lacks, but its pressure does. */
export const strainOf = ({ cpu, memory, pressure }: Pick<NodeLoad, "cpu" | "memory" | "pressure">): number =>
  Math.max(cpu * (1 + (pressure?.cpu ?? 0)), memory * (1 + (pressure?.memory ?? 0)));
