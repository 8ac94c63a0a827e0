/**
 * What is to become of one container of a node that is being emptied: the ladder live → cold → stopped, as far as its
 * policy, its service's disruption budget and the operator allow. Pure.
 */
import {
  AllocationState,
  DesiredState,
  NodeState,
  type Container,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, MigrationPolicy, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "../state/cluster.ts";
import { disruptionCheck, type PlannedDisruptions } from "./disruption.ts";
import { blockersOf, chooseTarget, stayCheck, type Seen } from "./movable.ts";
import type { Placement, PlannedUse } from "./placement.ts";

/** After this many aborted moves of a kind a container is left alone. */
export const MOVE_ATTEMPTS = 3;

type LowerRung =
  | { readonly kind: "cold"; readonly to: string; readonly why: string }
  | { readonly kind: "stop"; readonly why: string };

export type Course =
  /** `why`: what it stands in for; empty for what is usual. */
  | { readonly kind: "live"; readonly to: string; readonly why: string }
  | LowerRung
  /** Will pass; `patient`: it is worth waiting for even after the deadline. */
  | { readonly kind: "wait"; readonly why: string; readonly patient?: true }
  /** Nothing for now, and that once the ladder's lower rungs may be used. */
  | { readonly kind: "later"; readonly why: string; readonly rung: LowerRung }
  /** Does not keep the node from being empty. */
  | { readonly kind: "stay"; readonly why: string }
  | { readonly kind: "failed"; readonly why: string; readonly last?: Migration };

export interface CourseTerms {
  readonly cluster: Cluster;
  readonly seen: Seen;
  readonly planned: PlannedUse;
  readonly disruptions: PlannedDisruptions;
  /** Whatever its policy says; and at the end it may be stopped. */
  readonly force: boolean;
  /** There is a deadline, or --force stands in for one. */
  readonly hasLadder: boolean;
  /** The ladder's lower rungs may be used now. */
  readonly isLate: boolean;
  /** What may pass by itself is still waited for. */
  readonly isYoung: boolean;
  /** Moves of it that this drain has begun and that were aborted. */
  readonly attempts: readonly Migration[];
  /** Where the plan that was shown has it go. */
  readonly preferred?: string | undefined;
}

/** Whether the agent will start it again by itself. */
const willRestart = (container: Container): boolean => {
  const { allocation, spec } = container;
  if (container.desired !== DesiredState.RUNNING || spec?.restart === RestartPolicy.NEVER) return false;
  return spec?.restart !== RestartPolicy.ON_FAILURE || allocation?.exitCode !== 0;
};

const STAYS = "stays on its node until started or removed";

/** Why a container cannot be moved at this moment, and whether that will pass. */
export const idleness = (
  container: Container,
): Extract<Course, { kind: "wait" | "stay" | "failed" }> | undefined => {
  const allocation = container.allocation;
  const stopping = container.desired === DesiredState.STOPPED;
  if (container.removing) return { kind: "wait", why: "is being removed" };
  switch (allocation?.state) {
    case AllocationState.RUNNING:
      return stopping ? { kind: "wait", why: "is being stopped" } : undefined;
    case AllocationState.EXITED:
      if (stopping) return { kind: "stay", why: `stopped: ${STAYS}` };
      if (willRestart(container)) return { kind: "wait", why: "is being restarted" };
      return { kind: "stay", why: `exited with code ${allocation.exitCode}: ${STAYS}` };
    case AllocationState.FAILED: {
      const why = allocation.message || "no reason given";
      if (stopping) return { kind: "stay", why: `stopped, after it failed (${why}): ${STAYS}` };
      // Its agent goes on trying, so the node is not free of it; but that may go on for ever.
      return { kind: "failed", why: `does not run (${why})` };
    }
    default:
      return { kind: "wait", why: stopping ? "is being stopped" : "is starting" };
  }
};

/** The planned target as long as it fits, then the best of those where it has not failed, then the best. */
const targetOf = (terms: CourseTerms, container: Container, mode: MigrationMode): Placement => {
  const { attempts, cluster, planned, preferred, seen } = terms;
  const avoid = new Set(
    attempts.filter((attempt) => isCold(attempt) === (mode === MigrationMode.COLD)).map(({ to }) => to),
  );
  if (preferred !== undefined && !avoid.has(preferred)) {
    const placement = chooseTarget(cluster, seen, container, { planned, only: preferred, mode });
    if (placement.node !== undefined) return placement;
  }
  return chooseTarget(cluster, seen, container, { planned, avoid, mode });
};

const isCold = ({ mode }: Migration): boolean => mode === MigrationMode.COLD;

interface Failing {
  readonly why: string;
  readonly last?: Migration | undefined;
  /** It will pass by itself. */
  readonly passes?: boolean;
}

const tooOften = (attempts: readonly Migration[]): Failing | undefined => {
  const last = attempts.at(-1);
  if (last === undefined || attempts.length < MOVE_ATTEMPTS) return undefined;
  return { why: `failed to move ${attempts.length} times, last: ${last.error}`, last };
};

/** A target, or why it cannot be moved so. */
const moveOf = (terms: CourseTerms, container: Container, mode: MigrationMode): string | Failing => {
  const { attempts, cluster, force, seen } = terms;
  const failing = tooOften(attempts.filter((attempt) => isCold(attempt) === (mode === MigrationMode.COLD)));
  if (failing !== undefined) return failing;
  const refused = stayCheck(cluster, seen, container, force, mode);
  if (refused !== undefined) {
    const blockers = blockersOf(seen, container);
    return {
      why: refused.message,
      passes: mode !== MigrationMode.COLD && blockers.length > 0 && blockers.every(({ passing }) => passing),
    };
  }
  const placement = targetOf(terms, container, mode);
  return placement.node ?? { why: placement.failure ?? "" };
};

const stopOf = (terms: CourseTerms, container: Container, why: string): Course => {
  const refused = disruptionCheck(terms.cluster, terms.disruptions, container);
  return refused === undefined
    ? { kind: "stop", why }
    : { kind: "wait", why: refused.message, patient: true };
};

/** Of a container that is on the node and in no migration. */
export const courseOf = (terms: CourseTerms, container: Container): Course => {
  const { attempts, cluster, force, isLate } = terms;
  const idle = idleness(container);
  if (idle !== undefined) {
    const canBeStopped =
      idle.kind !== "stay" && !container.removing && container.desired === DesiredState.RUNNING;
    if (!force || !canBeStopped) return idle;
    return isLate ? stopOf(terms, container, idle.why) : idle;
  }
  if (cluster.state.nodes[container.allocation?.node ?? ""]?.state === NodeState.LOST)
    return { kind: "wait", why: "its node is lost" };
  const last = attempts.at(-1);
  if (last?.cancelRequested === true) return { kind: "failed", why: "its move was cancelled", last };
  const policy = container.spec?.migration;
  let live: Failing | undefined;
  if (policy !== MigrationPolicy.COLD) {
    const move = moveOf(terms, container, MigrationMode.PRECOPY);
    if (typeof move === "string") return { kind: "live", to: move, why: "" };
    if (move.passes === true && terms.isYoung && !isLate) return { kind: "wait", why: move.why };
    live = move;
  }
  // Of what may not be moved at all, nothing else is tried.
  if (policy === MigrationPolicy.NEVER && !force) return { kind: "failed", why: live?.why ?? "" };
  let cold: Failing | undefined;
  if (policy === MigrationPolicy.COLD || isLate) {
    const move = moveOf(terms, container, MigrationMode.COLD);
    if (typeof move === "string") {
      const refused = disruptionCheck(cluster, terms.disruptions, container);
      if (refused !== undefined) return { kind: "wait", why: refused.message, patient: true };
      return { kind: "cold", to: move, why: live?.why ?? "" };
    }
    cold = move;
  }
  const failing = cold ?? live ?? { why: "" };
  if (isLate && force) return stopOf(terms, container, failing.why);
  if (terms.hasLadder && !isLate) {
    const rung = courseOf({ ...terms, isLate: true }, container);
    if (rung.kind === "cold" || rung.kind === "stop") return { kind: "later", why: failing.why, rung };
    if (rung.kind === "wait") return { ...rung, why: `${failing.why}; ${rung.why}` };
  }
  return { kind: "failed", why: failing.why, ...(failing.last === undefined ? {} : { last: failing.last }) };
};
