/** The leader's part of every migration that has not ended: switch, abort or finish. */
import { MigrationPhase, type MigrationReport } from "../../proto/gen/godwit/v1/agent.ts";
import {
  AllocationState,
  DesiredState,
  MigrationState,
  NodeState,
  type Command,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import { type MigrationForecast, MigrationFigures, MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { checkedForecast } from "../model/forecast-check.ts";
import { formatSeconds } from "../model/quantity.ts";
import { isHeldBySource } from "../state/apply-migration.ts";
import type { Cluster } from "../state/cluster.ts";
import { isWhole, memoryLost } from "./arrived.ts";
import { command } from "./command.ts";
import { observedOn, type MigrationSeen, type Volatile } from "./volatile.ts";

/** A target that is not ready by then never will be. */
export const READY_LIMIT_MS = 60_000;
/** Neither a new phase nor a byte more for this long. */
export const PROGRESS_LIMIT_MS = 120_000;
/** After this, what a node says of the container itself counts, whatever became of its account of the migration. */
export const RELEASE_SILENCE_MS = 10_000;

/** Reasons come from agents and go into the log. */
const MAX_REASON = 1_024;

/** The code of an error that is a rule's or a budget's no. */
const REFUSED = "refused";

const SOURCE_REFUSED = "the source refused: ";
/** What a target says to whom the source has told why it ends the stream. */
const SOURCE_GAVE_UP = "the source gave up: ";

interface Abort {
  readonly reason: string;
  readonly errorCode?: string;
}

const failureOf = (
  side: "source" | "target",
  node: string,
  report: MigrationReport | undefined,
): Abort | undefined => {
  if (report?.phase !== MigrationPhase.FAILED && report?.phase !== MigrationPhase.ABORTED) return undefined;
  const isRefused = report.errorCode === REFUSED;
  const verb = isRefused ? "refused" : report.phase === MigrationPhase.FAILED ? "failed" : "gave up";
  return {
    // The source's no reaches the target with the stream, and may be heard from there first.
    reason:
      isRefused && side === "target" && report.error.startsWith(SOURCE_REFUSED)
        ? report.error
        : `the ${side} ${node} ${verb}: ${report.error || "it gave no reason"}`,
    ...(isRefused ? { errorCode: REFUSED } : {}),
  };
};

/** The source's failure reaches the target with the stream, and may be heard from there first. */
const sourcesFailure = ({ from }: Migration, target: MigrationReport | undefined): Abort | undefined =>
  target?.phase === MigrationPhase.FAILED && target.error.startsWith(SOURCE_GAVE_UP)
    ? { reason: `the source ${from} failed: ${target.error.slice(SOURCE_GAVE_UP.length)}` }
    : undefined;

const givenUp = (migration: Migration, report: MigrationReport): string =>
  `the target ${migration.to} could not restore it: ${report.error || "it gave no reason"}`;

/** In words; undefined: it is there. */
export const lost = (cluster: Cluster, name: string): string | undefined => {
  const node = cluster.state.nodes[name];
  if (node === undefined) return `node ${name} was removed`;
  return node.state === NodeState.LOST
    ? `node ${name} was lost (${node.stateReason || "no reports"})`
    : undefined;
};

/** Why the migration cannot go on, while ownership has not moved. */
const abortReason = (
  cluster: Cluster,
  volatile: Volatile,
  migration: Migration,
  nowMs: number,
): Abort | undefined => {
  const seen = volatile.migrations.get(migration.id);
  const because = outerReason(cluster, migration);
  if (because !== undefined) return { reason: because };
  const target = sourcesFailure(migration, seen?.target) ?? failureOf("target", migration.to, seen?.target);
  const source = failureOf("source", migration.from, seen?.source);
  // The target fails because the source refused, and may be heard first.
  const failed = source?.errorCode === REFUSED ? source : (target ?? source);
  // All else fails because of that.
  const ended = endReason(cluster, volatile, migration);
  if (ended !== undefined) return { reason: ended };
  if (failed !== undefined) return failed;
  const sinceMs = Math.max(migration.startedAtMs, volatile.leaderSinceMs);
  if (seen?.copy !== true && nowMs - sinceMs > READY_LIMIT_MS)
    return { reason: `the target ${migration.to} was not ready within ${formatSeconds(READY_LIMIT_MS)}` };
  const idleMs = nowMs - Math.max(sinceMs, seen?.progressAtMs ?? 0);
  return idleMs > PROGRESS_LIMIT_MS + stopGraceMs(cluster, migration)
    ? { reason: `no progress for ${formatSeconds(idleMs)}` }
    : undefined;
};

const DEFAULT_STOP_GRACE_SECONDS = 10;

/** A container that is stopped to be moved gets the time that it asks for. */
const stopGraceMs = (cluster: Cluster, { containerId, mode }: Migration): number =>
  mode === MigrationMode.COLD
    ? (cluster.state.containers[containerId]?.spec?.stopGraceSeconds || DEFAULT_STOP_GRACE_SECONDS) * 1000
    : 0;

const outerReason = (cluster: Cluster, migration: Migration): string | undefined => {
  const container = cluster.state.containers[migration.containerId];
  if (migration.cancelRequested) return "cancelled";
  if (container === undefined || container.removing) return "the container was removed";
  if (container.desired !== DesiredState.RUNNING) return "the container was stopped";
  // A lost source may well hold the frozen copy and thaw it when it is back, so ownership stays with it.
  return lost(cluster, migration.from) ?? lost(cluster, migration.to);
};

const endReason = (cluster: Cluster, volatile: Volatile, migration: Migration): string | undefined => {
  const container = cluster.state.containers[migration.containerId];
  const observed = observedOn(volatile.nodes.get(migration.from), migration.containerId);
  if (observed?.epoch !== container?.allocation?.epoch) return undefined;
  if (observed?.state === AllocationState.EXITED)
    return `the container exited with code ${observed.exitCode} during the move`;
  if (observed?.state === AllocationState.FAILED)
    return `the container failed during the move: ${observed.message}`;
  return undefined;
};

/** The forecast that the source made, unless the log has an earlier one. */
const predictedOf = (
  migration: Migration,
  seen: MigrationSeen | undefined,
): { predicted?: MigrationForecast } => {
  const forecast = seen?.source?.forecast;
  return forecast === undefined || migration.predicted !== undefined
    ? {}
    : { predicted: checkedForecast(forecast) };
};

/** An agent's figures, without what is no measurement: they go into the log and from there into JSON. */
const figuresOf = (report: MigrationReport | undefined): MigrationFigures => {
  const figures = MigrationFigures.fromPartial(report?.figures ?? {});
  for (const key of Object.keys(figures) as (keyof MigrationFigures)[])
    if (!Number.isFinite(figures[key]) || figures[key] < 0) figures[key] = 0;
  return figures;
};

/** What one side measured; where both did, the side that the figure belongs to is right. */
const mergeFigures = (
  migration: Migration,
  seen: MigrationSeen | undefined,
  nowMs: number,
): MigrationFigures => {
  const source = figuresOf(seen?.source);
  const target = figuresOf(seen?.target);
  const merged: MigrationFigures = {
    rounds: source.rounds || target.rounds,
    freezeMs: source.freezeMs || target.freezeMs,
    dumpMs: source.dumpMs || target.dumpMs,
    transferMs: target.transferMs || source.transferMs,
    restoreMs: target.restoreMs || source.restoreMs,
    resumeMs: target.resumeMs || source.resumeMs,
    // The source measures from the freeze until everything is over there, the target from then until it runs.
    blackoutMs: target.blackoutMs > 0 ? source.blackoutMs + target.blackoutMs : 0,
    totalMs: target.totalMs || source.totalMs || nowMs - migration.startedAtMs,
    memoryBytes: source.memoryBytes || target.memoryBytes,
    sentBytes: source.sentBytes || target.sentBytes,
    filesystemBytes: source.filesystemBytes || target.filesystemBytes,
    reusedBytes: source.reusedBytes,
  };
  if (merged.blackoutMs === 0)
    merged.blackoutMs =
      merged.freezeMs + merged.dumpMs + merged.transferMs + merged.restoreMs + merged.resumeMs;
  return merged;
};

const hasFailed = ({ phase }: MigrationReport): boolean =>
  phase === MigrationPhase.FAILED || phase === MigrationPhase.ABORTED;

const targetDone = (
  volatile: Volatile,
  migration: Migration,
  seen: MigrationSeen | undefined,
  sinceSwitchMs: number,
): boolean => {
  if (migration.mode === MigrationMode.POSTCOPY) return isWhole(volatile, migration);
  if (seen?.target?.phase === MigrationPhase.RUNNING) return true;
  const observed = observedOn(volatile.nodes.get(migration.to), migration.containerId);
  const after = observed?.epoch === migration.epoch ? observed.state : undefined;
  // It ran and is over, or will never run: the allocation says so, and the migration has nothing left to do.
  if (after === AllocationState.EXITED || after === AllocationState.FAILED) return true;
  // An agent that was restarted after the switch may run the container and know nothing of the migration any more.
  if (after !== AllocationState.RUNNING) return false;
  return seen?.target === undefined || hasFailed(seen.target) || sinceSwitchMs > RELEASE_SILENCE_MS;
};

const sourceDone = (
  cluster: Cluster,
  volatile: Volatile,
  migration: Migration,
  seen: MigrationSeen | undefined,
  sinceSwitchMs: number,
): boolean => {
  if (seen?.source?.phase === MigrationPhase.RELEASED) return true;
  // It is told again when it is back: what its Desired does not name is removed.
  if (lost(cluster, migration.from) !== undefined) return true;
  const node = volatile.nodes.get(migration.from);
  return (
    node?.current === true &&
    (seen?.source === undefined || hasFailed(seen.source)) &&
    observedOn(node, migration.containerId) === undefined &&
    sinceSwitchMs > RELEASE_SILENCE_MS
  );
};

/** The target knows that the container is its own, and says that nothing of it is there: its disk is another one. */
const isGoneAtTarget = ({ state }: Cluster, { nodes }: Volatile, { containerId, to }: Migration): boolean => {
  const seen = nodes.get(to);
  return (
    // Of one that is being removed both hosts are told so.
    state.containers[containerId]?.removing === false &&
    state.nodes[to]?.state === NodeState.READY &&
    seen?.current === true &&
    observedOn(seen, containerId) === undefined
  );
};

/** What is left of it is at the source, as far as it was not known to run at the target; or nowhere. */
const planGone = (
  cluster: Cluster,
  volatile: Volatile,
  migration: Migration,
  nowMs: number,
): Command | undefined => {
  const { from, id, to } = migration;
  const reason = `nothing of it is left on ${to}`;
  if (!isHeldBySource(cluster, migration)) return lose(volatile, migration, reason, nowMs);
  // Only a source that answers is known to hold its copy still.
  return lost(cluster, from) === undefined ? command("migrationReturned", { id, reason }) : undefined;
};

const lose = (volatile: Volatile, migration: Migration, reason: string, nowMs: number): Command => {
  const { id } = migration;
  const seen = volatile.migrations.get(id);
  return command("migrationLost", {
    id,
    reason: reason.slice(0, MAX_REASON),
    figures: mergeFigures(migration, seen, nowMs),
    ...predictedOf(migration, seen),
  });
};

const planMigration = (
  cluster: Cluster,
  volatile: Volatile,
  migration: Migration,
  nowMs: number,
): Command | undefined => {
  const { id } = migration;
  const seen = volatile.migrations.get(id);
  if (migration.state === MigrationState.RUNNING) {
    const abort = abortReason(cluster, volatile, migration, nowMs);
    if (abort !== undefined) {
      const { reason, ...code } = abort;
      return command("migrationAborted", {
        id,
        reason: reason.slice(0, MAX_REASON),
        ...code,
        ...predictedOf(migration, seen),
      });
    }
    return seen?.target?.phase === MigrationPhase.RESTORED ? command("migrationSwitched", { id }) : undefined;
  }
  if (migration.state !== MigrationState.SWITCHED) return undefined;
  if (isGoneAtTarget(cluster, volatile, migration)) return planGone(cluster, volatile, migration, nowMs);
  // Only a source that answers is known to hold its copy still.
  if (seen?.target?.phase === MigrationPhase.GIVEN_UP && lost(cluster, migration.from) === undefined)
    return command("migrationReturned", { id, reason: givenUp(migration, seen.target).slice(0, MAX_REASON) });
  const gone = memoryLost(cluster, volatile, migration);
  if (gone !== undefined) return lose(volatile, migration, gone, nowMs);
  const sinceSwitchMs = nowMs - Math.max(migration.switchedAtMs, volatile.leaderSinceMs);
  // Nobody has it any more, and whoever removed the source has said so: the target begins anew.
  const isOver =
    seen?.target?.phase === MigrationPhase.GIVEN_UP && cluster.state.nodes[migration.from] === undefined;
  if (!isOver && !targetDone(volatile, migration, seen, sinceSwitchMs)) return undefined;
  if (!sourceDone(cluster, volatile, migration, seen, sinceSwitchMs)) return undefined;
  return command("migrationFinished", {
    id,
    figures: mergeFigures(migration, seen, nowMs),
    ...predictedOf(migration, seen),
  });
};

export const planMigrations = (cluster: Cluster, volatile: Volatile, nowMs: number): Command[] =>
  [...cluster.index.moving].flatMap((id) => {
    const migration = cluster.state.migrations[id];
    return (migration === undefined ? undefined : planMigration(cluster, volatile, migration, nowMs)) ?? [];
  });
