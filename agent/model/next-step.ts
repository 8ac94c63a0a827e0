import { type DesiredAllocation, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { HealthState, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { DesiredState } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import type { ContainerRecord } from "./record.ts";
import { isAmended } from "./amendment.ts";
import { isRestarted, LONGEST_DELAY_MS } from "./restart-policy.ts";

/**
 * What one container needs next on this host. Every step can be done again after a crash at any point of it.
 */
export type Step =
  | { readonly kind: "none" }
  /** Nothing now; look again at this time. */
  | { readonly kind: "wait"; readonly untilMs: number }
  | { readonly kind: "start" }
  | { readonly kind: "stop" }
  /** Ends it at once and deletes everything, its writable layer included. */
  | { readonly kind: "remove" }
  /** Target: prepare, receive, restore, hold, and run it once the log says so. */
  | { readonly kind: "receive"; readonly migrationId: string }
  /** Target after a crash: restore again from the image that was received whole, and run it. */
  | { readonly kind: "resume"; readonly migrationId: string }
  /** Owner: into a sealed file, for other nodes to keep. */
  | { readonly kind: "checkpoint"; readonly checkpointId: string }
  /** Owner of nothing yet: go on from a checkpoint that this host keeps. */
  | { readonly kind: "restore"; readonly checkpointId: string }
  /** Source: copy, freeze, dump, send. */
  | { readonly kind: "copy"; readonly migrationId: string }
  /** Source: the migration was aborted. */
  | { readonly kind: "thaw" }
  /** It runs and does not do its work: it is stopped, to be started again. */
  | { readonly kind: "give-up" }
  /** Its spec has changed in what needs no restart. */
  | { readonly kind: "amend" }
  /** What is here belongs to the new epoch: its migration was returned. */
  | { readonly kind: "inherit" };

export interface Observation {
  /** Undefined: this host has nothing of the container. */
  readonly record: ContainerRecord | undefined;
  /** Migrations that have failed here and wait for the leader to abort them. */
  readonly failedMigrations: ReadonlySet<string>;
  /** The checkpoint that has been begun here, whatever became of it. */
  readonly begunCheckpoint?: string | undefined;
  readonly nowMs: number;
}

const NONE: Step = { kind: "none" };

/** @param desired undefined: the container has no business on this host. */
export function nextStep(desired: DesiredAllocation | undefined, observed: Observation): Step {
  const { record } = observed;
  if (desired === undefined || desired.role === Role.RELEASED)
    return record === undefined ? NONE : { kind: "remove" };
  const migrationId = desired.migration?.id ?? "";
  if (record !== undefined && desired.inheritsEpoch > 0 && record.epoch === desired.inheritsEpoch)
    return { kind: "inherit" };
  // A copy of an older epoch is what an earlier owner left here; the cluster has gone on without it.
  if (record !== undefined && record.epoch < desired.epoch && desired.role !== Role.TARGET)
    return { kind: "remove" };
  if (record !== undefined && record.epoch > desired.epoch) return NONE;
  switch (desired.role) {
    case Role.TARGET:
      if (observed.failedMigrations.has(migrationId)) return NONE;
      // What an earlier stay or an earlier try left here is older than what will come.
      if (record !== undefined) return { kind: "remove" };
      return { kind: "receive", migrationId };
    case Role.SOURCE:
      return sourceStep(desired, observed, migrationId);
    case Role.OWNER:
      return ownerStep(desired, observed, migrationId);
    case Role.UNSPECIFIED:
      return NONE;
  }
}

function sourceStep(desired: DesiredAllocation, observed: Observation, migrationId: string): Step {
  const status = observed.record?.status;
  // The target owns it already and has not said yet that it runs: whatever is here stays as it is.
  if (desired.migration?.switched === true) return NONE;
  if (status?.kind === "frozen") {
    // A copy that was frozen for an earlier migration belongs to nobody's plan any more.
    if (status.migrationId !== migrationId) return { kind: "thaw" };
    return status.sent === "no" ? { kind: "thaw" } : NONE;
  }
  // The same of one that was stopped to be moved.
  if (status?.kind === "halted")
    return status.migrationId !== migrationId || status.sent === "no" ? { kind: "start" } : NONE;
  if (
    status?.kind === "running" &&
    desired.migration?.copy === true &&
    !observed.failedMigrations.has(migrationId)
  ) {
    return { kind: "copy", migrationId };
  }
  return NONE;
}

function ownerStep(desired: DesiredAllocation, observed: Observation, migrationId: string): Step {
  const { record } = observed;
  if (record === undefined) {
    if (desired.desired !== DesiredState.RUNNING) return NONE;
    // It came by a move, and this host has lost it: the source may still have it, which the leader finds out.
    if (desired.migration?.switched === true) return NONE;
    const { restore } = desired;
    return restore === undefined
      ? { kind: "start" }
      : { kind: "restore", checkpointId: restore.checkpointId };
  }
  const { status } = record;
  switch (status.kind) {
    case "frozen":
      return { kind: "thaw" };
    case "restoring":
      if (
        desired.migration?.switched === true &&
        migrationId === status.migrationId &&
        status.stage !== "receiving"
      ) {
        // Nothing but files came, so that there is nothing to resume.
        if (desired.migration.mode === MigrationMode.COLD) return startOrStop(desired);
        // The source has it back as soon as the leader knows.
        return status.stage === "given-up" ? NONE : { kind: "resume", migrationId };
      }
      // It has run here, and only the disk has never taken that: its files are the only ones there are.
      if (
        desired.migration === undefined &&
        desired.restore === undefined &&
        (status.stage === "received" || status.stage === "ran")
      )
        return startOrStop(desired);
      return { kind: "remove" };
    case "starting":
    case "halted":
      return startOrStop(desired);
    case "running":
      if (desired.desired === DesiredState.STOPPED) return { kind: "stop" };
      if (desired.restartGeneration > record.restartGeneration) return { kind: "stop" };
      if (desired.spec !== undefined && isAmended(record.spec, desired.spec)) return { kind: "amend" };
      if (record.health === HealthState.UNHEALTHY && record.spec.restart !== RestartPolicy.NEVER)
        return { kind: "give-up" };
      return desired.checkpoint === undefined || desired.checkpoint.id === observed.begunCheckpoint
        ? NONE
        : { kind: "checkpoint", checkpointId: desired.checkpoint.id };
    case "stopped": {
      if (desired.spec !== undefined && isAmended(record.spec, desired.spec)) return { kind: "amend" };
      if (desired.desired !== DesiredState.RUNNING) return NONE;
      if (desired.restartGeneration > record.restartGeneration) return { kind: "start" };
      if (!status.failed && !isRestarted(record.spec.restart, status.exitCode)) return NONE;
      const waitMs = status.startAtMs - observed.nowMs;
      // Nobody waits for longer: the clock has been set back since.
      return waitMs <= 0 || waitMs > LONGEST_DELAY_MS
        ? { kind: "start" }
        : { kind: "wait", untilMs: status.startAtMs };
    }
  }
}

/** How long until it is started again by itself; 0: it is not about to be. */
export function restartInMs(
  { spec, status }: ContainerRecord,
  desired: DesiredAllocation | undefined,
  nowMs: number,
): number {
  if (status.kind !== "stopped" || desired?.role !== Role.OWNER || desired.desired !== DesiredState.RUNNING)
    return 0;
  const isComing = status.failed || isRestarted(spec.restart, status.exitCode);
  return isComing ? Math.max(0, Math.round(status.startAtMs - nowMs)) : 0;
}

const startOrStop = (desired: DesiredAllocation): Step => ({
  kind: desired.desired === DesiredState.RUNNING ? "start" : "stop",
});

/** Whether what the host has of the container is what the cluster means by these orders, and may run. */
export function belongsHere(
  desired: DesiredAllocation | undefined,
  record: ContainerRecord | undefined,
): boolean {
  if (desired === undefined || record === undefined || record.epoch !== desired.epoch) return false;
  if (desired.role === Role.SOURCE) return desired.migration?.switched !== true;
  return desired.role === Role.OWNER || desired.role === Role.TARGET;
}

/** What a change of the desired state means for a step that is under way. */
export type Interruption = "none" | "abort" | "commit";

export function interruption(step: Step, desired: DesiredAllocation | undefined): Interruption {
  const migrationId = desired?.migration?.id;
  switch (step.kind) {
    case "receive":
      if (desired === undefined || migrationId !== step.migrationId) return "abort";
      if (desired.role === Role.OWNER && desired.migration?.switched === true) return "commit";
      return desired.role === Role.TARGET ? "none" : "abort";
    case "copy":
      return desired?.role === Role.SOURCE && migrationId === step.migrationId ? "none" : "abort";
    case "checkpoint":
      return desired?.role === Role.OWNER && desired.checkpoint?.id === step.checkpointId ? "none" : "abort";
    case "restore":
      return desired?.role === Role.OWNER && desired.desired === DesiredState.RUNNING ? "none" : "abort";
    case "start": {
      // As the source it starts what was stopped for a move that has failed.
      const isOwner = desired?.role === Role.OWNER || desired?.role === Role.SOURCE;
      return isOwner && desired.desired === DesiredState.RUNNING ? "none" : "abort";
    }
    default:
      return "none";
  }
}
