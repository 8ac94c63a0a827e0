/** What containers and nodes use, as JSON and as tables. Pure. */
import type { ContainerStats, NodeStats, StatsReport } from "../../../proto/gen/godwit/v1/api.ts";
import type { Column } from "../output.ts";
import { formatBytes } from "../quantity.ts";
import { percent } from "./balance.ts";

const cpusOrNull = (millis: number | undefined): number | null =>
  millis === undefined ? null : Number((millis / 1_000).toFixed(4));
const shareOrNull = (value: number | undefined): number | null =>
  value === undefined ? null : Number(value.toFixed(4));

export const statsDocument = ({ containers, nodes }: StatsReport): Record<string, unknown> => ({
  containers: containers.map((one) => ({
    name: one.name,
    id: one.id,
    node: one.node,
    state: one.state,
    cpus: cpusOrNull(one.cpuMillis),
    cpusSmoothed: cpusOrNull(one.cpuMillisSmoothed),
    cpuLimit: one.cpuLimitMillis / 1_000,
    memoryBytes: one.memoryBytes,
    memoryLimitBytes: one.memoryLimitBytes,
    pids: one.pids,
    pidsLimit: one.pidsLimit,
    readBytes: one.readBytes ?? null,
    writtenBytes: one.writtenBytes ?? null,
    receivedBytes: one.receivedBytes ?? null,
    sentBytes: one.sentBytes ?? null,
  })),
  nodes: nodes.map((one) => ({
    node: one.node,
    state: one.state,
    containers: one.containers,
    cpus: one.cpuMillis / 1_000,
    cpusUsed: cpusOrNull(one.cpuMillisUsed),
    memoryBytes: one.memoryBytes,
    memoryUsedBytes: one.memoryBytesUsed,
    hostMemoryUsedBytes: one.hostMemoryBytesUsed,
    load: Number(one.load1.toFixed(2)),
    cpuPressure: shareOrNull(one.cpuPressure),
    memoryPressure: shareOrNull(one.memoryPressure),
    ioPressure: shareOrNull(one.ioPressure),
  })),
});

const cpus = (millis: number | undefined): string =>
  millis === undefined ? "-" : (millis / 1_000).toFixed(2);
const bytes = (value: number | undefined): string => (value === undefined ? "-" : formatBytes(value));
const ofLimit = (used: string, limit: string): string => (limit === "" ? used : `${used} / ${limit}`);
const both = (a: number | undefined, b: number | undefined): string =>
  a === undefined && b === undefined ? "-" : `${bytes(a)} / ${bytes(b)}`;
const pressure = (value: number | undefined): string => (value === undefined ? "-" : percent(value));

export const CONTAINER_STATS_COLUMNS: readonly Column<ContainerStats>[] = [
  { title: "CONTAINER", cell: ({ name }) => name },
  { title: "NODE", cell: ({ node }) => node || "-" },
  { title: "STATE", cell: ({ state }) => state },
  {
    title: "CPU",
    cell: ({ cpuLimitMillis, cpuMillis }) =>
      ofLimit(cpus(cpuMillis), cpuLimitMillis === 0 ? "" : String(cpuLimitMillis / 1_000)),
    right: true,
  },
  {
    title: "MEMORY",
    cell: ({ memoryBytes, memoryLimitBytes }) =>
      ofLimit(formatBytes(memoryBytes), memoryLimitBytes === 0 ? "" : formatBytes(memoryLimitBytes)),
    right: true,
  },
  {
    title: "PIDS",
    cell: ({ pids, pidsLimit }) => ofLimit(String(pids), pidsLimit === 0 ? "" : String(pidsLimit)),
    right: true,
  },
  {
    title: "NET IN / OUT",
    cell: ({ receivedBytes, sentBytes }) => both(receivedBytes, sentBytes),
    right: true,
  },
  { title: "DISK R / W", cell: ({ readBytes, writtenBytes }) => both(readBytes, writtenBytes), right: true },
  {
    title: "CPU SMOOTHED",
    cell: ({ cpuMillisSmoothed }) => cpus(cpuMillisSmoothed),
    right: true,
    wide: true,
  },
];

export const NODE_STATS_COLUMNS: readonly Column<NodeStats>[] = [
  { title: "NODE", cell: ({ node }) => node },
  { title: "STATE", cell: ({ state }) => state },
  { title: "CONTAINERS", cell: ({ containers }) => String(containers), right: true },
  {
    title: "CPU",
    cell: ({ cpuMillis, cpuMillisUsed }) => ofLimit(cpus(cpuMillisUsed), String(cpuMillis / 1_000)),
    right: true,
  },
  {
    title: "MEMORY",
    cell: ({ memoryBytes, memoryBytesUsed }) =>
      ofLimit(formatBytes(memoryBytesUsed), formatBytes(memoryBytes)),
    right: true,
  },
  { title: "HOST MEMORY", cell: ({ hostMemoryBytesUsed }) => formatBytes(hostMemoryBytesUsed), right: true },
  { title: "LOAD", cell: ({ load1 }) => load1.toFixed(2), right: true },
  { title: "CPU PRESSURE", cell: ({ cpuPressure }) => pressure(cpuPressure), right: true },
  { title: "MEMORY PRESSURE", cell: ({ memoryPressure }) => pressure(memoryPressure), right: true },
  { title: "IO PRESSURE", cell: ({ ioPressure }) => pressure(ioPressure), right: true },
];
