import { GodwitError } from "../../proto/contract/error.ts";
import {
  type DesiredAllocation,
  type MigrationReport,
  MigrationPhase,
  Role,
} from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationProgress } from "../migrate/progress.ts";
import type { Arrival } from "./arrival.ts";
import type { RecordedContainer } from "./container.ts";
import { endedReport, releasedReport, settledReport } from "./settled.ts";

/** What the leader is told of the one migration that a container is in: from the step that works at it, or the record. */
export class MigrationAccount {
  readonly #container: RecordedContainer;
  #progress: MigrationProgress | undefined;

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** Undefined: nothing has been begun, or not by this agent. */
  get progress(): MigrationProgress | undefined {
    return this.#progress;
  }

  /** Those that have failed here and wait for the leader to abort them. */
  get failed(): ReadonlySet<string> {
    return new Set(this.#progress?.failed === true ? [this.#progress.id] : []);
  }

  begin(migrationId: string, role: Role, phase: MigrationPhase): MigrationProgress {
    const { changed, id } = this.#container;
    this.#progress = new MigrationProgress(migrationId, id, role, phase, changed);
    return this.#progress;
  }

  /** Nothing is told any more of one that is not ordered. */
  expect(desired: DesiredAllocation | undefined): void {
    if (desired?.migration?.id !== this.#progress?.id) this.#progress = undefined;
  }

  /** A stream does not outlive the agent that held its end: a move that was under way then cannot go on. */
  failUnfinished(desired: DesiredAllocation | undefined): void {
    const order = desired?.migration;
    const { status } = this.#container;
    if (order === undefined || status === undefined) return;
    if (desired?.role === Role.TARGET && status.kind === "restoring" && status.migrationId === order.id)
      this.#failRestarted(order.id, Role.TARGET, MigrationPhase.RECEIVING, "target's");
    // One that was frozen and sent nothing is thawed first; of one that was sent to its end the target speaks.
    const mayLackItsEnd = status.kind === "frozen" && status.sent === "maybe" && !order.switched;
    const isHalted = status.kind === "halted" && status.sent !== "yes" && !order.switched;
    const isCutOff = (status.kind === "running" && order.copy) || mayLackItsEnd || isHalted;
    if (desired?.role === Role.SOURCE && isCutOff)
      this.#failRestarted(order.id, Role.SOURCE, MigrationPhase.COPYING, "source's");
  }

  #failRestarted(migrationId: string, role: Role, phase: MigrationPhase, whose: string): void {
    this.begin(migrationId, role, phase).fail(
      new GodwitError("unavailable", `the ${whose} agent restarted during the move`),
    );
  }

  report(
    desired: DesiredAllocation | undefined,
    arrival: Pick<Arrival, "isCleared" | "pageSession">,
  ): MigrationReport | undefined {
    const order = desired?.migration;
    const { id, record } = this.#container;
    if (desired?.role === Role.RELEASED && order !== undefined && record === undefined)
      return releasedReport(order, id, this.#progress?.report());
    const isOwner = desired?.role === Role.OWNER && order?.switched === true;
    const report =
      this.#progress?.report() ??
      (isOwner ? settledReport(order, id, record?.status, arrival.isCleared) : undefined);
    return report === undefined
      ? undefined
      : { ...endedReport(report, record?.status), pageSession: arrival.pageSession };
  }

  /** What a cold move has brought is started like any other container when it could not be at the switch itself. */
  startedAfterSwitch(desired: DesiredAllocation | undefined): void {
    const order = desired?.migration;
    const runs = this.#container.status?.kind === "running";
    if (order?.switched === true && this.#progress?.id === order.id && runs)
      this.#progress.enter(MigrationPhase.RUNNING);
  }
}
