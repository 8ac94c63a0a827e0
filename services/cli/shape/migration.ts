/** Migrations as JSON and as tables. Pure. */
import type { MigrationInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { Column } from "../output.ts";
import { formatAge, formatBytes, formatDuration } from "../quantity.ts";
import { modeWord, textOrNull, timeOrNull } from "./words.ts";

/** The fields that scripts rely on, of `move` and `migrations` alike. */
export function migrationRow(info: MigrationInfo): Record<string, unknown> {
  const { figures } = info;
  return {
    id: info.id,
    container: info.container,
    from: info.from,
    to: info.to,
    mode: modeWord(info.mode),
    state: info.state,
    rounds: figures?.rounds ?? 0,
    blackoutMs: rounded(figures?.blackoutMs),
    totalMs: rounded(figures?.totalMs),
    memoryBytes: figures?.memoryBytes ?? 0,
    sentBytes: figures?.sentBytes ?? 0,
    filesystemBytes: figures?.filesystemBytes ?? 0,
    error: textOrNull(info.error),
  };
}

/** With the phases and times of `migrations`. */
export function migrationDetail(info: MigrationInfo): Record<string, unknown> {
  const { figures } = info;
  return {
    ...migrationRow(info),
    containerId: info.containerId,
    reason: info.reason,
    phase: textOrNull(info.phase),
    startedAt: timeOrNull(info.startedAtMs),
    endedAt: timeOrNull(info.endedAtMs),
    phases: {
      freezeMs: rounded(figures?.freezeMs),
      dumpMs: rounded(figures?.dumpMs),
      transferMs: rounded(figures?.transferMs),
      restoreMs: rounded(figures?.restoreMs),
      resumeMs: rounded(figures?.resumeMs),
    },
  };
}

const rounded = (ms: number | undefined): number => Number((ms ?? 0).toFixed(3));
const known = (value: number | undefined, format: (value: number) => string): string =>
  value === undefined || value === 0 ? "-" : format(value);

export function migrationColumns(nowMs: number): Column<MigrationInfo>[] {
  return [
    { title: "ID", cell: (info) => info.id },
    { title: "CONTAINER", cell: (info) => info.container },
    { title: "FROM", cell: (info) => info.from },
    { title: "TO", cell: (info) => info.to },
    { title: "MODE", cell: (info) => modeWord(info.mode) },
    { title: "STATE", cell: (info) => (info.phase === "" ? info.state : `${info.state} (${info.phase})`) },
    { title: "BLACKOUT", cell: (info) => known(info.figures?.blackoutMs, formatDuration), right: true },
    { title: "TOTAL", cell: (info) => known(info.figures?.totalMs, formatDuration), right: true },
    { title: "MEMORY", cell: (info) => known(info.figures?.memoryBytes, formatBytes), right: true },
    { title: "SENT", cell: (info) => known(info.figures?.sentBytes, formatBytes), right: true },
    { title: "AGE", cell: (info) => formatAge(nowMs - info.startedAtMs), right: true },
    {
      title: "FREEZE",
      cell: (info) => known(info.figures?.freezeMs, formatDuration),
      right: true,
      wide: true,
    },
    { title: "DUMP", cell: (info) => known(info.figures?.dumpMs, formatDuration), right: true, wide: true },
    {
      title: "TRANSFER",
      cell: (info) => known(info.figures?.transferMs, formatDuration),
      right: true,
      wide: true,
    },
    {
      title: "RESTORE",
      cell: (info) => known(info.figures?.restoreMs, formatDuration),
      right: true,
      wide: true,
    },
    {
      title: "RESUME",
      cell: (info) => known(info.figures?.resumeMs, formatDuration),
      right: true,
      wide: true,
    },
    { title: "REASON", cell: (info) => info.reason, wide: true },
    { title: "ERROR", cell: (info) => info.error, wide: true },
  ];
}

/** What `move` says at its end, in one line. */
export function migrationSummary(info: MigrationInfo): string {
  const { figures } = info;
  if (info.state === "planned")
    return `${info.container} would move from ${info.from} to ${info.to} (${modeWord(info.mode)})`;
  const parts = [
    `blackout ${known(figures?.blackoutMs, formatDuration)}`,
    `total ${known(figures?.totalMs, formatDuration)}`,
    `memory ${known(figures?.memoryBytes, formatBytes)}`,
    `sent ${known(figures?.sentBytes, formatBytes)}`,
  ];
  return `${info.container} moved from ${info.from} to ${info.to} (${modeWord(info.mode)}): ${parts.join(", ")}`;
}
