/** What a person is told about a migration, from the log and what both sides last reported. Pure. */
import { MigrationPhase } from "../../../proto/gen/godwit/v1/agent.ts";
import type { MigrationInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { MigrationState } from "../../../proto/gen/godwit/v1/log.ts";
import { MigrationFigures } from "../../../proto/gen/godwit/v1/spec.ts";
import type { DeepReadonlyState, MigrationRuntime } from "../../../scheduler/mod.ts";

export type MigrationRecord = DeepReadonlyState["migrations"][string];

const STATE_NAMES: { readonly [S in MigrationState]: string } = {
  [MigrationState.UNSPECIFIED]: "running",
  [MigrationState.RUNNING]: "running",
  [MigrationState.SWITCHED]: "switched",
  [MigrationState.FINISHED]: "finished",
  [MigrationState.ABORTED]: "aborted",
  [MigrationState.LOST]: "lost",
};

export const migrationEnded = (record: MigrationRecord): boolean =>
  record.state === MigrationState.FINISHED ||
  record.state === MigrationState.ABORTED ||
  record.state === MigrationState.LOST;

/** In the order in which a move passes through them. */
const PHASE_ORDER: readonly MigrationPhase[] = [
  MigrationPhase.UNSPECIFIED,
  MigrationPhase.PREPARING,
  MigrationPhase.READY,
  MigrationPhase.RECEIVING,
  MigrationPhase.COPYING,
  MigrationPhase.FROZEN,
  MigrationPhase.DUMPED,
  MigrationPhase.RESTORED,
  MigrationPhase.FILLING,
  MigrationPhase.RUNNING,
  MigrationPhase.RELEASED,
  MigrationPhase.ABORTED,
  MigrationPhase.FAILED,
  MigrationPhase.GIVEN_UP,
];

/**
 * The phase of the side that is at work. The target receives all the while the source copies, freezes and dumps, so
 * the source's phase says more; once it has dumped, what is still going on is the target's receiving and restoring.
 */
export function phaseOf(runtime: MigrationRuntime | undefined): string {
  const source = runtime?.source?.phase ?? MigrationPhase.UNSPECIFIED;
  const target = runtime?.target?.phase ?? MigrationPhase.UNSPECIFIED;
  if (source === MigrationPhase.DUMPED && target === MigrationPhase.RECEIVING) return word(target);
  return word(PHASE_ORDER.indexOf(source) >= PHASE_ORDER.indexOf(target) ? source : target);
}
const word = (phase: MigrationPhase): string =>
  phase === MigrationPhase.UNSPECIFIED ? "" : phase.slice("MIGRATION_PHASE_".length).toLowerCase();

export function migrationInfo(record: MigrationRecord, runtime: MigrationRuntime | undefined): MigrationInfo {
  const ended = migrationEnded(record);
  const sender = runtime?.source ?? runtime?.target;
  return {
    id: record.id,
    container: record.containerName,
    containerId: record.containerId,
    from: record.from,
    to: record.to,
    mode: record.mode,
    state: STATE_NAMES[record.state],
    phase: ended ? "" : phaseOf(runtime),
    figures: mergedFigures([record.figures, runtime?.source?.figures, runtime?.target?.figures]),
    error: record.error || (runtime?.standstill ?? ""),
    startedAtMs: record.startedAtMs,
    endedAtMs: record.endedAtMs,
    bytesDone: ended ? 0 : (sender?.bytesDone ?? 0),
    bytesTotal: ended ? 0 : (sender?.bytesTotal ?? 0),
    reason: record.reason,
    predicted: record.predicted ?? runtime?.source?.forecast,
    copy: ended ? undefined : runtime?.source?.copy,
    errorCode: record.errorCode,
    balance: record.balance,
    balanceOutcome: record.balanceOutcome,
  };
}

/** Each figure is known to one side only; the first that has one says it. */
function mergedFigures(all: readonly (Readonly<MigrationFigures> | undefined)[]): MigrationFigures {
  const merged = MigrationFigures.fromPartial({});
  for (const key of Object.keys(merged) as (keyof MigrationFigures)[]) {
    merged[key] = all.map((figures) => figures?.[key] ?? 0).find((value) => value !== 0) ?? 0;
  }
  return merged;
}
