import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";

/** What of a spec can change while the container goes on: nothing of it is looked at before it is needed. Pure. */
const later = (spec: ContainerSpec) => ({
  restart: spec.restart,
  backoff: spec.backoff,
  migration: spec.migration,
  blackoutBudgetMs: spec.blackoutBudgetMs,
  labels: spec.labels,
  stopGraceSeconds: spec.stopGraceSeconds,
  stopSignal: spec.stopSignal,
});

export const amended = (spec: ContainerSpec, wanted: ContainerSpec): ContainerSpec => ({
  ...spec,
  ...later(wanted),
});

const text = (spec: ContainerSpec): string => {
  const { labels, ...rest } = later(spec);
  return JSON.stringify([rest, Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1))]);
};

export const isAmended = (spec: ContainerSpec, wanted: ContainerSpec): boolean => text(spec) !== text(wanted);
