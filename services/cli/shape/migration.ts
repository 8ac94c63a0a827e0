/** Migrations as JSON and as tables. Pure. */
import type { MigrationInfo } from "../../../proto/gen/godwit/v1/api.ts";
import {
  type CopyProgress,
  type MigrationForecast,
  MigrationMode,
} from "../../../proto/gen/godwit/v1/spec.ts";
import type { Column } from "../output.ts";
import { formatAge, formatBytes, formatDuration } from "../quantity.ts";
import { balanceDocument, gainWords } from "./balance.ts";
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
    reusedBytes: figures?.reusedBytes ?? 0,
    filesystemBytes: figures?.filesystemBytes ?? 0,
    error: textOrNull(info.error),
    errorCode: textOrNull(info.errorCode ?? ""),
    predicted: predictedDocument(info.predicted),
    ...(info.state === "planned" ? { remark: textOrNull(info.remark ?? "") } : {}),
  };
}

function predictedDocument(forecast: MigrationForecast | undefined): Record<string, unknown> | null {
  if (forecast === undefined) return null;
  return {
    mode: modeWord(forecast.mode),
    rounds: forecast.rounds,
    blackoutMs: rounded(forecast.blackoutMs),
    totalMs: rounded(forecast.totalMs),
    memoryBytes: forecast.memoryBytes,
    sentBytes: forecast.sentBytes,
    filesystemBytes: forecast.filesystemBytes,
    processes: forecast.processes,
    dirtyBytesPerSecond: Math.round(forecast.dirtyBytesPerSecond),
    copyBytesPerSecond: Math.round(forecast.copyBytesPerSecond),
    cpuPercent: forecast.cpuPercent,
    refusal: textOrNull(forecast.refusal),
  };
}

/** With the phases and times of `migrations`. */
export function migrationDetail(info: MigrationInfo): Record<string, unknown> {
  const { figures } = info;
  return {
    ...migrationRow(info),
    containerId: info.containerId,
    reason: info.reason,
    balance: balanceDocument(info),
    phase: textOrNull(info.phase),
    bytesDone: info.bytesDone,
    bytesTotal: info.bytesTotal,
    copy: info.copy === undefined ? null : copyDocument(info.copy),
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

const copyDocument = (copy: CopyProgress): Record<string, unknown> => ({
  round: copy.round,
  dirtyBytesPerSecond: Math.round(copy.dirtyBytesPerSecond),
  copyBytesPerSecond: Math.round(copy.copyBytesPerSecond),
  remainingMs: rounded(copy.remainingMs),
  cpuPercent: copy.cpuPercent,
});

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
      title: "FORECAST",
      cell: (info) => known(info.predicted?.blackoutMs, formatDuration),
      right: true,
      wide: true,
    },
    { title: "OFF BY", cell: offBy, right: true, wide: true },
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

/** The forecast of the blackout against the blackout: "+12%" promised too long a one. */
function offBy({ figures, predicted }: MigrationInfo): string {
  const [actual, expected] = [figures?.blackoutMs ?? 0, predicted?.blackoutMs ?? 0];
  if (actual === 0 || expected === 0) return "-";
  const percent = Math.round(((expected - actual) / actual) * 100);
  return `${percent > 0 ? "+" : ""}${percent}%`;
}

const rate = (bytesPerSecond: number): string => `${formatBytes(Math.round(bytesPerSecond))}/s`;

/** One migration, for people. */
export function migrationFields(info: MigrationInfo, nowMs: number): [string, string][] {
  const { copy, figures, predicted } = info;
  const fields: [string, string][] = [
    ["id", info.id],
    ["container", info.container],
    ["from", info.from],
    ["to", info.to],
    ["mode", modeWord(info.mode)],
    ["state", info.phase === "" ? info.state : `${info.state} (${info.phase})`],
    ["reason", info.reason],
    ["started", `${formatAge(nowMs - info.startedAtMs)} ago`],
  ];
  if (info.bytesDone > 0)
    fields.push(["copied", `${formatBytes(info.bytesDone)} of about ${formatBytes(info.bytesTotal)}`]);
  if (copy !== undefined) fields.push(["copying", copyWords(copy)]);
  for (const [title, value] of [
    ["blackout", figures?.blackoutMs],
    ["  freeze", figures?.freezeMs],
    ["  dump", figures?.dumpMs],
    ["  transfer", figures?.transferMs],
    ["  restore", figures?.restoreMs],
    ["  resume", figures?.resumeMs],
    ["total", figures?.totalMs],
  ] as const)
    fields.push([title, known(value, formatDuration)]);
  fields.push(
    ["rounds", String(figures?.rounds ?? 0)],
    ["memory", known(figures?.memoryBytes, formatBytes)],
    ["files", known(figures?.filesystemBytes, formatBytes)],
    ["sent", known(figures?.sentBytes, formatBytes)],
    ["reused", known(figures?.reusedBytes, formatBytes)],
  );
  if (predicted !== undefined) fields.push(["forecast", forecastWords(predicted)], ["off by", offBy(info)]);
  const gain = gainWords(info);
  if (gain !== undefined) fields.push(["balance", gain]);
  if (info.error !== "") fields.push(["error", info.error]);
  return fields;
}

/** "round 2, about 1.2 s left, writes 12 MiB/s, copied at 180 MiB/s": the end is cut off where a terminal is narrow. */
export function copyWords(copy: CopyProgress): string {
  const parts = [`round ${copy.round}`];
  if (copy.remainingMs > 0) parts.push(`about ${formatDuration(copy.remainingMs)} left`);
  parts.push(`writes ${rate(copy.dirtyBytesPerSecond)}`, `copied at ${rate(copy.copyBytesPerSecond)}`);
  if (copy.cpuPercent < 100) parts.push(`slowed down to ${copy.cpuPercent}% of its CPU time`);
  return parts.join(", ");
}

function forecastWords(forecast: MigrationForecast): string {
  if (forecast.mode === MigrationMode.COLD)
    return [
      "down while it is stopped and started",
      `total ${formatDuration(forecast.totalMs)} and the time that it takes to stop`,
      `files ${formatBytes(forecast.filesystemBytes)}`,
    ].join(", ");
  const parts = [
    `blackout ${formatDuration(forecast.blackoutMs)}`,
    `total ${formatDuration(forecast.totalMs)}`,
    `${forecast.rounds} rounds`,
    `memory ${formatBytes(forecast.memoryBytes)}`,
    `sent ${formatBytes(forecast.sentBytes)}`,
  ];
  if (forecast.cpuPercent < 100) parts.push(`slowed down to ${forecast.cpuPercent}% of its CPU time`);
  return parts.join(", ");
}

/** What `move` says at its end, in one line. */
export function migrationSummary(info: MigrationInfo): string {
  const { figures, predicted } = info;
  if (info.state === "planned") {
    const would = `${info.container} would move from ${info.from} to ${info.to} (${modeWord(info.mode)})`;
    if (predicted === undefined) return info.remark ? `${would}; ${info.remark}` : would;
    if (predicted.mode === MigrationMode.COLD) return `${would}: ${forecastWords(predicted)}`;
    const writes = `it writes ${rate(predicted.dirtyBytesPerSecond)}, ${rate(predicted.copyBytesPerSecond)} can be copied`;
    return `${would}: ${forecastWords(predicted)} (${writes})`;
  }
  const parts = [
    `blackout ${known(figures?.blackoutMs, formatDuration)}`,
    `total ${known(figures?.totalMs, formatDuration)}`,
    `memory ${known(figures?.memoryBytes, formatBytes)}`,
    `sent ${known(figures?.sentBytes, formatBytes)}`,
  ];
  return `${info.container} moved from ${info.from} to ${info.to} (${modeWord(info.mode)}): ${parts.join(", ")}`;
}
