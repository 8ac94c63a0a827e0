import {
  type MigrationOrder,
  type MigrationReport,
  MigrationPhase,
  Role,
} from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationProgress } from "../migrate/progress.ts";
import { lacksMemory, type RecordStatus } from "../model/record.ts";

/**
 * After a crash between the switch and its report, the record alone tells what became of the container at the target;
 * undefined: nothing has yet.
 * @param isCleared of what was given up nothing is left
 */
export function settledReport(
  order: MigrationOrder,
  containerId: string,
  status: RecordStatus | undefined,
  isCleared: boolean,
): MigrationReport | undefined {
  // Nobody has watched it to its end, and it may need pages to come there.
  const isBeginning =
    status?.kind === "restoring" && status.stage === "ran" && status.following !== undefined;
  const phase = isBeginning
    ? MigrationPhase.RESTORED
    : lacksMemory(status)
      ? MigrationPhase.FILLING
      : MigrationPhase.RUNNING;
  const settled = new MigrationProgress(order.id, containerId, Role.TARGET, phase, () => undefined);
  if (status?.kind === "restoring" && status.stage === "given-up" && isCleared)
    settled.giveUp(status.failure ?? "");
  else if (status?.kind !== "running" && !isBeginning) return undefined;
  return settled.report();
}

/**
 * What is told of a post-copy whose container has ended while its memory followed: that nothing is wanted of the source any
 * more, also when it has been started anew since. Told that it still fills, the leader would take its memory for lost as
 * soon as the source has let go of it.
 */
export const endedReport = (report: MigrationReport, status: RecordStatus | undefined): MigrationReport =>
  report.phase === MigrationPhase.FILLING && !lacksMemory(status)
    ? { ...report, phase: MigrationPhase.RUNNING }
    : report;

/** @param measured what it measured as the source belongs to the account of the whole */
export function releasedReport(
  order: MigrationOrder,
  containerId: string,
  measured: MigrationReport | undefined,
): MigrationReport {
  const released = new MigrationProgress(
    order.id,
    containerId,
    Role.RELEASED,
    MigrationPhase.RELEASED,
    () => undefined,
  ).report();
  return { ...released, figures: measured?.figures, forecast: measured?.forecast };
}
