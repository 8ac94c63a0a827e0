/** Checkpoints as JSON and as tables. Pure. */
import type { CheckpointInfo } from "../../../proto/gen/godwit/v1/checkpoint.ts";
import type { Column } from "../output.ts";
import { formatAge, formatBytes, formatDuration } from "../quantity.ts";
import { textOrNull, timeOrNull } from "./words.ts";

export const checkpointRow = (info: CheckpointInfo): Record<string, unknown> => ({
  id: info.id,
  container: info.container,
  state: info.state,
  at: timeOrNull(info.atMs),
  source: info.source,
  keepers: info.keepers,
  reason: info.reason,
  memoryBytes: info.memoryBytes,
  sizeBytes: info.sizeBytes,
  wholeBytes: info.wholeBytes,
  keptBytes: info.keptBytes,
  base: textOrNull(info.baseId),
  blackoutMs: Number(info.blackoutMs.toFixed(3)),
  error: textOrNull(info.error),
});

const bytesOf = (bytes: number): string => (bytes === 0 ? "-" : formatBytes(bytes));

export const checkpointColumns = (nowMs: number): Column<CheckpointInfo>[] => [
  { title: "ID", cell: (info) => info.id },
  { title: "CONTAINER", cell: (info) => info.container },
  { title: "STATE", cell: (info) => info.state },
  { title: "AGE", cell: (info) => formatAge(nowMs - info.atMs), right: true },
  { title: "FROM", cell: (info) => info.source },
  { title: "KEPT ON", cell: (info) => info.keepers.join(",") },
  { title: "SENT", cell: (info) => bytesOf(info.sizeBytes), right: true },
  { title: "WHOLE", cell: (info) => bytesOf(info.wholeBytes), right: true },
  {
    title: "BLACKOUT",
    cell: (info) => (info.blackoutMs === 0 ? "-" : formatDuration(info.blackoutMs)),
    right: true,
  },
  { title: "ON DISK", cell: (info) => bytesOf(info.keptBytes), right: true, wide: true },
  { title: "BUILDS UPON", cell: (info) => info.baseId || "-", wide: true },
  { title: "REASON", cell: (info) => info.reason, wide: true },
  { title: "ERROR", cell: (info) => info.error, wide: true },
];
