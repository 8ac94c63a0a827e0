/** A service's policies with their defaults, and what a change of its template asks for. Pure. */
import {
  OnFailure,
  UpdateOrder,
  type ServiceSpec,
  type UpdatePolicy,
} from "../../proto/gen/godwit/v1/service.ts";
import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";

const TIMEOUT_MS = 300_000;

export interface UpdateRules {
  readonly batch: number;
  readonly pauseMs: number;
  readonly startFirst: boolean;
  readonly rollsBack: boolean;
  readonly monitorMs: number;
  readonly timeoutMs: number;
}

export const updateRules = ({ update }: { readonly update?: UpdatePolicy | undefined }): UpdateRules => ({
  batch: Math.max(1, update?.batch ?? 1),
  pauseMs: update?.pauseMs ?? 0,
  startFirst: update?.order === UpdateOrder.START_FIRST,
  rollsBack: update?.onFailure !== OnFailure.PAUSE,
  monitorMs: update?.monitorMs ?? 0,
  timeoutMs: update?.timeoutMs || TIMEOUT_MS,
});

/** How many of the replicas may be unavailable at a time because somebody wants it. */
export const budgetOf = ({ disruption, replicas }: Pick<ServiceSpec, "disruption" | "replicas">): number => {
  const limit = disruption?.limit;
  switch (limit?.$case) {
    case undefined:
      return 1;
    case "maxUnavailable":
      return limit.value;
    case "maxUnavailablePercent":
      return Math.ceil((limit.value * replicas) / 100);
  }
};

/** Equal as values, whatever the order of keys. For messages of plain fields. */
export const sameValue = (a: unknown, b: unknown): boolean => {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const left = Object.entries(a).filter(([, value]) => value !== undefined);
  const right = new Map(Object.entries(b).filter(([, value]) => value !== undefined));
  return left.length === right.size && left.every(([key, value]) => sameValue(value, right.get(key)));
};

/** Names of the top-level fields in which two templates differ. */
export const changedFields = (before: ContainerSpec, after: ContainerSpec): string[] => {
  const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
  const field = (spec: ContainerSpec, key: string): unknown =>
    (spec as unknown as Record<string, unknown>)[key];
  return [...keys].filter((key) => !sameValue(field(before, key), field(after, key))).sort();
};

/**
 * Fields that a running container takes over without a restart, and that cannot break it: a health check could. Its own
 * name and pin are not the template's.
 */
const IN_PLACE: ReadonlySet<string> = new Set([
  "restart",
  "backoff",
  "migration",
  "blackoutBudgetMs",
  "labels",
  "stopGraceSeconds",
  "stopSignal",
  "priority",
  "preemption",
]);
const OWN: ReadonlySet<string> = new Set(["name", "node"]);

export type TemplateChange = "none" | "in-place" | "rolling";

/** What it takes to make a container of `before` one of `after`. */
export const templateChange = (before: ContainerSpec, after: ContainerSpec): TemplateChange => {
  const changed = changedFields(before, after).filter((key) => !OWN.has(key));
  if (changed.length === 0) return "none";
  return changed.every((key) => IN_PLACE.has(key)) ? "in-place" : "rolling";
};
