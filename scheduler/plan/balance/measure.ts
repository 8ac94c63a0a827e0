/** What balancing moves have gained, against what was predicted. Pure. */
import { AllocationState, MigrationState, type Migration } from "../../../proto/gen/godwit/v1/log.ts";
import type { BalanceOutcome, BalanceSettings } from "../../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "../../state/cluster.ts";
import { nodeLoadOf, type ContainerLoad, type LoadBook, type NodeLoad } from "./load.ts";
import { gapOf, shifted } from "./simulate.ts";

/** A prediction is missed when less than this part of it comes true, beyond what is noise. */
const MISSED_PART = 0.5;
const NOISE = 0.02;
/** What cannot be measured after so many times the settling time (and not before that many ms) never will be. */
const PATIENCE = 10;
const LEAST_PATIENCE_MS = 300_000;

/** Moves that failed for a reason that has nothing to do with the prediction. */
const NOT_ITS_FAULT = /^(cancelled|the container (was|exited|failed)|node \S+ was )/;

/** Balancing moves that have ended and are not judged yet, oldest first. */
const unjudged = (cluster: Cluster): Migration[] =>
  cluster.index.ended
    .flatMap((id) => cluster.state.migrations[id] ?? [])
    .filter(({ balance, balanceOutcome }) => balance !== undefined && balanceOutcome === undefined);

const loadNow = (cluster: Cluster, book: LoadBook, name: string): NodeLoad | undefined => {
  const info = cluster.state.nodes[name]?.info;
  const usage = book.node(name);
  return info === undefined || usage === undefined ? undefined : nodeLoadOf(info, usage);
};

const unmeasured = (nowMs: number, remark: string): BalanceOutcome => ({
  measuredAtMs: nowMs,
  actualGain: 0,
  missed: false,
  remark,
});

/** Undefined: it is too early to tell. */
const outcomeOf = (
  cluster: Cluster,
  book: LoadBook,
  migration: Migration,
  settings: Readonly<BalanceSettings>,
  nowMs: number,
): BalanceOutcome | undefined => {
  const { balance, containerId, endedAtMs, from, to } = migration;
  if (balance === undefined) return undefined;
  if (migration.state === MigrationState.ABORTED) {
    const missed = !NOT_ITS_FAULT.test(migration.error) && migration.errorCode !== "refused";
    return { measuredAtMs: nowMs, actualGain: 0, missed, remark: `not moved: ${migration.error}` };
  }
  const allocation = cluster.state.containers[containerId]?.allocation;
  if (allocation?.node !== to || allocation.epoch !== migration.epoch)
    return unmeasured(nowMs, `not measured: it is no longer on ${to}`);
  if (allocation.state !== AllocationState.RUNNING && allocation.state !== AllocationState.STARTING)
    return unmeasured(nowMs, "not measured: it no longer runs");
  const moved = book.container(containerId);
  const watchedMs = moved?.watchedHereMs ?? 0;
  const silent = [from, to].find((name) => book.isSilent(name, nowMs));
  if (nowMs - endedAtMs < settings.settleMs || watchedMs < settings.settleMs / 2 || silent !== undefined) {
    if (nowMs - endedAtMs < Math.max(LEAST_PATIENCE_MS, PATIENCE * settings.settleMs)) return undefined;
    return unmeasured(nowMs, `not measured: ${silent ?? to} has not reported for long enough`);
  }
  const [source, target] = [from, to].map((name) => loadNow(cluster, book, name));
  if (source === undefined || target === undefined || moved === undefined) return undefined;
  const actualGain = gainOf(source, target, moved);
  return {
    measuredAtMs: nowMs,
    actualGain,
    missed: actualGain < balance.predictedGain * MISSED_PART - NOISE,
    remark: "",
  };
};

/**
 * By how much the two loads are closer to each other than they would be if it were still where it came from. What else
 * has begun, ended or moved there meanwhile is thus not taken for a gain or a loss of this move.
 */
const gainOf = (source: NodeLoad, target: NodeLoad, moved: ContainerLoad): number =>
  gapOf(shifted(source, moved, 1), shifted(target, moved, -1)) - gapOf(source, target);

export const measureMoves = (
  cluster: Cluster,
  book: LoadBook,
  settings: Readonly<BalanceSettings>,
  nowMs: number,
): { readonly migrationId: string; readonly outcome: BalanceOutcome }[] =>
  unjudged(cluster).flatMap((migration) => {
    const outcome = outcomeOf(cluster, book, migration, settings, nowMs);
    return outcome === undefined ? [] : [{ migrationId: migration.id, outcome }];
  });

/** The last moves that missed, newest first, up to the first that did not; since the balancer was last set. */
export const missesInARow = ({ state, index }: Cluster): Migration[] => {
  const sinceMs = state.balancing?.setAtMs ?? 0;
  const judged = index.ended
    .flatMap((id) => state.migrations[id] ?? [])
    .filter(({ balanceOutcome, startedAtMs }) => balanceOutcome !== undefined && startedAtMs >= sinceMs)
    // What could not be measured says nothing in either direction.
    .filter(({ balanceOutcome }) => balanceOutcome?.missed === true || balanceOutcome?.remark === "")
    .toSorted(
      (a, b) =>
        (b.balanceOutcome?.measuredAtMs ?? 0) - (a.balanceOutcome?.measuredAtMs ?? 0) ||
        (a.id < b.id ? 1 : -1),
    );
  const hit = judged.findIndex(({ balanceOutcome }) => balanceOutcome?.missed !== true);
  return hit < 0 ? judged : judged.slice(0, hit);
};

/** Nodes that have to show what the containers that were moved to them come to. */
export const settlingNodes = (
  cluster: Cluster,
  settings: Readonly<BalanceSettings>,
  nowMs: number,
): ReadonlySet<string> => {
  const settling = new Set<string>();
  for (const id of cluster.index.ended) {
    const migration = cluster.state.migrations[id];
    // One that has just failed at a target may well fail there again.
    if (migration?.balance === undefined) continue;
    if (nowMs - migration.endedAtMs < settings.settleMs) settling.add(migration.to);
  }
  return settling;
};
