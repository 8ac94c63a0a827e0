/** The leader's part of checkpoints: when they are taken, what became of them, and who goes on from one. */
import {
  CheckpointPhase,
  type Checkpoint,
  type CheckpointReport,
} from "../../proto/gen/godwit/v1/checkpoint.ts";
import {
  AllocationState,
  NodeState,
  type Command,
  type Container,
  type Node,
} from "../../proto/gen/godwit/v1/log.ts";
import { baseFault, chainOf } from "../state/checkpoint-chain.ts";
import { completeCheckpoints, newestCheckpoint, unfitFor } from "../state/checkpoint-fit.ts";
import type { Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import { lost } from "./migrations.ts";
import { placeOne, type PlacementOptions } from "./placement.ts";
import { observedOn, type Volatile } from "./volatile.ts";

/** Nodes that keep one. */
const KEEPERS = 2;
/** One that is not complete by then never will be. */
export const CHECKPOINT_LIMIT_MS = 600_000;
/** A source that does not speak of it by then does not know of it. */
export const CHECKPOINT_SILENCE_MS = 30_000;

type Seen = Pick<Volatile, "nodes">;

const reportOf = (seen: Seen | undefined, node: string, id: string): CheckpointReport | undefined =>
  seen?.nodes.get(node)?.checkpoints.get(id);

/** The first of these that the node says it does not have whole, though it once said so. */
const lostBy = (seen: Seen | undefined, node: string, chain: readonly Checkpoint[]): string | undefined =>
  chain.find(({ id }) => {
    const phase = reportOf(seen, node, id)?.phase;
    return phase !== undefined && phase !== CheckpointPhase.STORED;
  })?.id;

const keepsAll = (seen: Seen, node: string, chain: readonly Checkpoint[]): boolean =>
  chain.every(({ id }) => reportOf(seen, node, id)?.phase === CheckpointPhase.STORED);

/** Whether so much fits on a node's disk, as far as it says. */
const hasRoomFor = (seen: Seen, node: string, bytes: number): boolean =>
  (seen.nodes.get(node)?.report.load?.diskBytesFree ?? Infinity) > bytes;

/** Of all of it, at most: memory as its node says, or as the last checkpoint had it with its files. */
const wholeBytesOf = (cluster: Cluster, seen: Seen, { allocation, id }: Container): number => {
  const memoryBytes = observedOn(seen.nodes.get(allocation?.node ?? ""), id)?.memoryBytes ?? 0;
  return Math.max(memoryBytes, newestCheckpoint(cluster, id)?.wholeBytes ?? 0);
};

/** The two nodes that keep least, of those that have room for it and could restore it if there are such. */
const chooseKeepers = (cluster: Cluster, seen: Seen, container: Container): string[] => {
  const wholeBytes = wholeBytesOf(cluster, seen, container);
  const { index, state } = cluster;
  const source = container.allocation?.node ?? "";
  const info = state.nodes[source]?.info;
  const rankOf = (name: string, { info: to, schedulable }: Node): number => {
    const isFit = info !== undefined && to !== undefined && unfitFor({ ...info, source }, to).length === 0;
    return (hasRoomFor(seen, name, wholeBytes) ? 0 : 4) + (isFit ? 0 : 2) + (schedulable ? 0 : 1);
  };
  return Object.entries(state.nodes)
    .filter(([name, node]) => name !== source && node.state === NodeState.READY)
    .map(([name, node]) => ({ name, rank: rankOf(name, node), keeps: index.keeping.get(name)?.size ?? 0 }))
    .toSorted((a, b) => a.rank - b.rank || a.keeps - b.keeps || (a.name < b.name ? -1 : 1))
    .slice(0, KEEPERS)
    .map(({ name }) => name);
};

/** Why it will never be complete. */
const failureOf = (
  cluster: Cluster,
  volatile: Volatile,
  checkpoint: Checkpoint,
  nowMs: number,
): string | undefined => {
  const { baseId, containerId, containerName, epoch, id, keepers, source, startedAtMs } = checkpoint;
  const container = cluster.state.containers[containerId];
  if (container === undefined || container.removing) return `${containerName} was removed`;
  if (container.allocation?.epoch !== epoch || container.migrationId !== "")
    return `${containerName} was moved`;
  if (container.allocation.state !== AllocationState.RUNNING) return `${containerName} does not run any more`;
  for (const node of [source, ...keepers]) {
    const why = lost(cluster, node);
    if (why !== undefined) return why;
    const report = reportOf(volatile, node, id);
    if (report?.phase === CheckpointPhase.FAILED) return `${node}: ${report.error || "it gave no reason"}`;
  }
  const chain = chainOf(cluster, baseId);
  for (const keeper of keepers) {
    const missing = lostBy(volatile, keeper, chain);
    if (missing !== undefined) return `${keeper} has lost checkpoint ${missing}, which it was to build upon`;
  }
  const sinceMs = nowMs - Math.max(startedAtMs, volatile.leaderSinceMs);
  if (sinceMs > CHECKPOINT_SILENCE_MS && reportOf(volatile, source, id) === undefined)
    return `${source} does not speak of it; is its agent of the same version?`;
  return sinceMs > CHECKPOINT_LIMIT_MS ? "it took too long" : undefined;
};

const planTaking = (
  cluster: Cluster,
  volatile: Volatile,
  checkpoint: Checkpoint,
  nowMs: number,
): Command | undefined => {
  const { id, keepers, source } = checkpoint;
  const sent = reportOf(volatile, source, id);
  if (sent?.phase === CheckpointPhase.SENT) {
    const { baseId, blackoutMs, memoryBytes, sizeBytes, wholeBytes } = sent;
    if (baseId !== "" && baseId !== checkpoint.baseId)
      return command("checkpointFailed", { id, error: `${source} has built upon something else` });
    const needed = [...chainOf(cluster, baseId), checkpoint];
    if (keepers.every((keeper) => keepsAll(volatile, keeper, needed)))
      return command("checkpointStored", {
        id,
        sizeBytes,
        memoryBytes,
        blackoutMs: Number.isFinite(blackoutMs) && blackoutMs > 0 ? blackoutMs : 0,
        baseId,
        wholeBytes,
      });
  }
  const error = failureOf(cluster, volatile, checkpoint, nowMs);
  return error === undefined ? undefined : command("checkpointFailed", { id, error });
};

export interface CheckpointTerms {
  readonly nowMs: number;
  readonly newId: () => string;
  /** A new AES-256 key. */
  readonly newKey: () => Uint8Array;
}

/** One is due so long after the last one began, or after the container was placed. */
const isDue = (cluster: Cluster, container: Container, nowMs: number): boolean => {
  const { allocation, migrationId, removing, spec } = container;
  if (removing) return false;
  const everyMs = (spec?.checkpointEverySeconds ?? 0) * 1_000;
  if (everyMs === 0 || migrationId !== "" || allocation?.state !== AllocationState.RUNNING) return false;
  if (cluster.state.nodes[allocation.node]?.state !== NodeState.READY) return false;
  let lastMs = allocation.placedAtMs;
  for (const id of cluster.index.checkpointsOf.get(container.id) ?? []) {
    if (cluster.index.taking.has(id)) return false;
    const one = cluster.state.checkpoints[id];
    if (one?.reason === "periodic") lastMs = Math.max(lastMs, one.startedAtMs);
  }
  return nowMs - lastMs >= everyMs;
};

/**
 * What a new one may build upon: the last one, where all of its keepers have all that it needs. Not for ever: as soon as
 * the differences are together as large as what they differ from, everything is sent again.
 */
const chooseBase = (
  cluster: Cluster,
  seen: Seen,
  { allocation, id }: Container,
  fresh: readonly string[],
): Checkpoint | undefined => {
  const newest = newestCheckpoint(cluster, id);
  if (newest === undefined || newest.keepers.length < fresh.length) return undefined;
  const { keepers } = newest;
  const terms = { containerId: id, epoch: allocation?.epoch ?? 0, keepers };
  if (baseFault(cluster, newest.id, terms) !== undefined) return undefined;
  if (keepers.some((keeper) => cluster.state.nodes[keeper]?.state !== NodeState.READY)) return undefined;
  const chain = chainOf(cluster, newest.id);
  const [whole, ...differences] = chain;
  // Nodes whose disks are full are left for such as have room.
  const isFull = keepers.some((keeper) => !hasRoomFor(seen, keeper, newest.sizeBytes));
  if (isFull && fresh.every((keeper) => hasRoomFor(seen, keeper, newest.wholeBytes))) return undefined;
  const differing = differences.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (whole === undefined || differing > whole.sizeBytes) return undefined;
  return keepers.every((keeper) => keepsAll(seen, keeper, chain)) ? newest : undefined;
};

export const startCheckpoint = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  reason: "operator" | "periodic",
  { newId, newKey }: Pick<CheckpointTerms, "newId" | "newKey">,
): Command | undefined => {
  const fresh = chooseKeepers(cluster, seen, container);
  if (fresh.length === 0) return undefined;
  const base = chooseBase(cluster, seen, container, fresh);
  return command("checkpointStarted", {
    id: newId(),
    containerId: container.id,
    epoch: container.allocation?.epoch ?? 0,
    keepers: base?.keepers ?? fresh,
    key: Buffer.from(newKey()),
    reason,
    baseId: base?.id ?? "",
  });
};

export const planCheckpoints = (cluster: Cluster, volatile: Volatile, terms: CheckpointTerms): Command[] => [
  ...[...cluster.index.taking].flatMap((id) => {
    const checkpoint = cluster.state.checkpoints[id];
    return (
      (checkpoint === undefined ? undefined : planTaking(cluster, volatile, checkpoint, terms.nowMs)) ?? []
    );
  }),
  ...[...cluster.index.periodic].flatMap((id) => {
    const container = cluster.state.containers[id];
    if (container === undefined || !isDue(cluster, container, terms.nowMs)) return [];
    return startCheckpoint(cluster, volatile, container, "periodic", terms) ?? [];
  }),
];

/** Where a container whose node is lost goes on from its newest checkpoint; undefined: it begins anew. */
export const placeWithCheckpoint = (
  cluster: Cluster,
  container: Container,
  options: Pick<PlacementOptions, "planned" | "seen">,
): { readonly node: string; readonly checkpointId: string } | undefined => {
  if (container.allocation === undefined) return undefined;
  for (const checkpoint of completeCheckpoints(cluster, container.id)) {
    const chain = chainOf(cluster, checkpoint.id);
    const among = checkpoint.keepers.filter((keeper) => {
      const info = cluster.state.nodes[keeper]?.info;
      if (info === undefined || unfitFor(checkpoint, info).length > 0) return false;
      return lostBy(options.seen, keeper, chain) === undefined;
    });
    const node = among.length === 0 ? undefined : placeOne(cluster, container, { ...options, among });
    if (node !== undefined) return { node, checkpointId: checkpoint.id };
  }
  return undefined;
};
