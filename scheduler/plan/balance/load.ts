/**
 * What containers and nodes use, smoothed, from one report after the other. A container's figures go with it when it
 * moves, and a node's are the sum of its containers': a move changes both nodes' loads at once, not when the
 * smoothing has caught up, so that nobody acts twice on one and the same load. Pure: time is an argument.
 */
import type { Load, ObservedAllocation } from "../../../proto/gen/godwit/v1/agent.ts";
import type { NodeInfo } from "../../../proto/gen/godwit/v1/log.ts";
import { isOver } from "../../model/allocation-state.ts";
import { balanceSettingsOf } from "../../state/apply-balance.ts";
import type { Cluster } from "../../state/cluster.ts";
import type { News } from "../node-seen.ts";
import { LoadTable, type Field } from "./load-table.ts";

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
  readonly number: number;
  readonly name: string;
  /** Their rows. */
  readonly containers = new Set<number>();

  constructor(number: number, name: string, atMs: number, clockMs: number) {
    this.number = number;
    this.name = name;
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

/** What a report tells of the use of its node and of some of its containers. */
export interface LoadNews extends News {
  readonly info: Pick<NodeInfo, "cpuMillis"> | undefined;
  readonly load: Load | undefined;
}

export class LoadBook {
  readonly #table = new LoadTable();
  readonly #nodes = new Map<string, NodeEntry>();
  /** Those that are no more stay empty: a leader does not see very many of them. */
  readonly #byNumber: (NodeEntry | undefined)[] = [];

  container(id: string): ContainerLoad | undefined {
    const table = this.#table;
    const row = table.find(id);
    if (row === undefined) return undefined;
    return {
      node: this.#nodeOf(row)?.name ?? "",
      cpuMillis: table.get(row, "cpuMillis"),
      memoryBytes: table.get(row, "memoryBytes"),
      recentCpuMillis: table.get(row, "recentCpuMillis"),
      watchedMs: table.get(row, "watchedMs"),
      watchedHereMs: table.get(row, "watchedHereMs"),
    };
  }
  #nodeOf(row: number): NodeEntry | undefined {
    return this.#byNumber[this.#table.get(row, "node")];
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
    if (entry === undefined) {
      entry = new NodeEntry(this.#byNumber.length, name, nowMs, clockMs);
      this.#nodes.set(name, entry);
      this.#byNumber.push(entry);
    }
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
        if (here?.has(observed.containerId) === true) this.#sample(cluster, entry, observed, terms);
        else this.relocate(cluster, observed.containerId);
      }
    for (const id of gone) this.#leave(cluster, name, id);
    if (isFirst) this.#smoothPressure(entry, load, 0, smoothingMs);
    else this.#sampleNode(entry, load, terms, nowMs);
  }

  #sample(cluster: Cluster, entry: NodeEntry, observed: ObservedAllocation, terms: SampleTerms): void {
    const table = this.#table;
    const { containerId } = observed;
    // With the string that the state keeps, and not one more.
    const row =
      table.find(containerId) ??
      table.add(cluster.state.containers[containerId]?.id ?? containerId, entry.number);
    this.#settle(row, entry);
    entry.containers.add(row);
    addTo(entry, table, row, -1);
    smooth(table, row, observed, terms, isMoving(cluster, containerId));
    addTo(entry, table, row, 1);
  }

  /** Its node does not list it any more: it counts where it belongs to, if that is known to somebody. */
  #leave(cluster: Cluster, name: string, id: string): void {
    const row = this.#table.find(id);
    if (row === undefined) return;
    const node = this.#nodeOf(row);
    if (node?.name !== name) return;
    const owner = cluster.state.containers[id]?.allocation?.node;
    const there = owner === name ? undefined : this.#nodes.get(owner ?? "");
    if (there !== undefined) this.#settle(row, there);
    else {
      count(node, this.#table, row, -1);
      this.#table.remove(row);
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
    if (entry.samples % SAMPLES_PER_COUNT === 0) recount(entry, this.#table);
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
    const row = this.#table.find(containerId);
    const there = this.#nodes.get(cluster.state.containers[containerId]?.allocation?.node ?? "");
    if (row !== undefined && there !== undefined) this.#settle(row, there);
  }

  /** Counts the container on that node. Its counters begin anew there, what is known of it does not. */
  #settle(row: number, there: NodeEntry): void {
    const table = this.#table;
    const before = this.#nodeOf(row);
    if (before === there) return;
    if (before !== undefined) count(before, table, row, -1);
    count(there, table, row, 1);
    table.set(row, "node", there.number);
    table.set(row, "baseUsec", Number.NaN);
    table.set(row, "clockMs", Number.NaN);
    table.set(row, "watchedHereMs", 0);
  }

  /** Nodes that are no more. */
  forget(cluster: Cluster): void {
    for (const [name, entry] of this.#nodes) {
      if (cluster.state.nodes[name] !== undefined) continue;
      this.#nodes.delete(name);
      this.#byNumber[entry.number] = undefined;
      for (const row of entry.containers) this.#table.remove(row);
    }
  }
}

const SUMMED = ["cpuMillis", "memoryBytes", "recentCpuMillis"] as const;
const addTo = (node: NodeEntry, table: LoadTable, row: number, sign: 1 | -1): void => {
  for (const field of SUMMED) node[field] += sign * table.get(row, field);
};
const count = (node: NodeEntry, table: LoadTable, row: number, sign: 1 | -1): void => {
  if (sign === 1) node.containers.add(row);
  else if (!node.containers.delete(row)) return;
  addTo(node, table, row, sign);
  for (const field of SUMMED) node[field] = Math.max(0, node[field]);
};

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
const recount = (entry: NodeEntry, table: LoadTable): void => {
  entry.cpuMillis = entry.memoryBytes = entry.recentCpuMillis = 0;
  for (const row of entry.containers) addTo(entry, table, row, 1);
};

const SMOOTHED = ["cpuMillis", "memoryBytes", "recentCpuMillis", "watchedMs", "watchedHereMs"] as const;

const smooth = (
  table: LoadTable,
  row: number,
  observed: ObservedAllocation,
  terms: SampleTerms,
  isMoving: boolean,
): void => {
  if (isOver(observed.state)) {
    for (const field of SMOOTHED) table.set(row, field, 0);
    for (const field of ["baseUsec", "clockMs"] as const) table.set(row, field, Number.NaN);
    return;
  }
  const lastMs = table.get(row, "clockMs");
  const sinceMs = Number.isNaN(lastMs) ? 0 : terms.clockMs - lastMs;
  if (!Number.isNaN(lastMs) && sinceMs >= 0 && sinceMs < terms.spacingMs) return;
  table.set(row, "clockMs", terms.clockMs);
  // Back in time: the host was started anew, and its counters with it.
  const elapsedMs = Math.max(0, sinceMs);
  const share = shareOf(elapsedMs, terms.halfLifeMs);
  const usec = measured(observed.cpuUsageUsec);
  const memory = measured(observed.memoryBytes);
  const base = table.get(row, "baseUsec");
  table.set(row, "baseUsec", usec);
  const watchedMs = table.get(row, "watchedMs");
  const mix = (field: Field, value: number): void => {
    const before = table.get(row, field);
    table.set(row, field, before + weightOf(share, elapsedMs, watchedMs) * (value - before));
  };
  if (table.get(row, "memoryBytes") === 0 || elapsedMs === 0) table.set(row, "memoryBytes", memory);
  else mix("memoryBytes", memory);
  // A counter that has fallen is another one: it was started anew.
  if (Number.isNaN(base) || usec < base || elapsedMs === 0 || isMoving) return;
  const rate = Math.min((usec - base) / elapsedMs, terms.mostMillis);
  table.set(row, "recentCpuMillis", rate);
  mix("cpuMillis", rate);
  table.set(row, "watchedMs", watchedMs + elapsedMs);
  table.set(row, "watchedHereMs", table.get(row, "watchedHereMs") + elapsedMs);
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
