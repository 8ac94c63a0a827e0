/** Drains, evacuations and returns as JSON and as tables. Pure. */
import type { DrainItem, DrainPlanItem, DrainStatus } from "../../../proto/gen/godwit/v1/api.ts";
import type { Column } from "../output.ts";
import { formatBytes, formatDuration } from "../quantity.ts";
import { modeWord, textOrNull } from "./words.ts";

const drainItem = (item: DrainItem): Record<string, unknown> => ({
  container: item.container,
  to: textOrNull(item.to),
  mode: item.mode === undefined ? null : modeWord(item.mode),
  migration: textOrNull(item.migrationId),
  blackoutMs: Number(item.blackoutMs.toFixed(3)),
  reason: textOrNull(item.reason),
});

/** `blackoutMs` and the others of a forecast are null where there is none; of a cold move nobody knows the blackout. */
function planItem(item: DrainPlanItem): Record<string, unknown> {
  const { forecast } = item;
  const known = (value: number | undefined): number | null =>
    value === undefined ? null : Math.round(value);
  return {
    container: item.container,
    action: item.action,
    to: textOrNull(item.to),
    atDeadline: item.atDeadline,
    mode: forecast === undefined ? null : modeWord(forecast.mode),
    blackoutMs: item.action === "cold" ? null : known(forecast?.blackoutMs),
    totalMs: known(forecast?.totalMs),
    memoryBytes: known(forecast?.memoryBytes),
    filesystemBytes: known(forecast?.filesystemBytes),
    sentBytes: known(forecast?.sentBytes),
    reason: textOrNull(item.reason),
    remark: textOrNull(item.remark),
  };
}

export function drainDocument(
  status: DrainStatus,
  plan: readonly DrainPlanItem[] = status.plan,
): Record<string, unknown> {
  return {
    node: status.node,
    moved: status.moved.map(drainItem),
    failed: status.failed.map(drainItem),
    remaining: status.remaining.map(drainItem),
    totalMs: Math.round(status.totalMs),
    state: status.state,
    error: textOrNull(status.error),
    plan: plan.map(planItem),
  };
}

interface DrainLine {
  readonly item: DrainItem;
  readonly outcome: string;
}
export function drainLines(status: DrainStatus): DrainLine[] {
  const all = (items: readonly DrainItem[], outcome: string): DrainLine[] =>
    items.map((item) => ({ item, outcome }));
  return [
    ...all(status.moved, "moved"),
    ...all(status.failed, "failed"),
    ...all(status.remaining, "remaining"),
  ];
}
export const DRAIN_COLUMNS: readonly Column<DrainLine>[] = [
  { title: "CONTAINER", cell: (line) => line.item.container },
  { title: "OUTCOME", cell: (line) => line.outcome },
  { title: "MODE", cell: ({ item }) => (item.mode === undefined ? "-" : modeWord(item.mode)) },
  { title: "TO", cell: (line) => (line.item.to === "" ? "-" : line.item.to) },
  {
    title: "BLACKOUT",
    cell: (line) => (line.item.blackoutMs === 0 ? "-" : formatDuration(line.item.blackoutMs)),
    right: true,
  },
  { title: "REASON", cell: (line) => line.item.reason },
];

const known = (value: number | undefined, format: (value: number) => string): string =>
  value === undefined || value === 0 ? "-" : format(value);

const ACTIONS: { readonly [action: string]: string } = {
  live: "live move",
  cold: "stop, start there",
  stop: "stop",
  wait: "wait",
  stay: "stays",
};

export const PLAN_COLUMNS: readonly Column<DrainPlanItem>[] = [
  { title: "CONTAINER", cell: ({ container }) => container },
  {
    title: "PLAN",
    cell: ({ action, atDeadline }) => `${ACTIONS[action] ?? action}${atDeadline ? " (last)" : ""}`,
  },
  { title: "TO", cell: ({ to }) => to || "-" },
  { title: "BLACKOUT", cell: ({ forecast }) => known(forecast?.blackoutMs, formatDuration), right: true },
  { title: "TIME", cell: ({ forecast }) => known(forecast?.totalMs, formatDuration), right: true },
  { title: "SENDS", cell: ({ forecast }) => known(forecast?.sentBytes, formatBytes), right: true },
  {
    title: "MEMORY",
    cell: ({ forecast }) => known(forecast?.memoryBytes, formatBytes),
    right: true,
    wide: true,
  },
  {
    title: "FILES",
    cell: ({ forecast }) => known(forecast?.filesystemBytes, formatBytes),
    right: true,
    wide: true,
  },
  {
    title: "REASON",
    cell: ({ reason, remark }) => [reason, remark].filter((text) => text !== "").join("; "),
  },
];
