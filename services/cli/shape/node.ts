/** Nodes as JSON and as tables. Pure. */
import type { NodeSummary } from "../../../proto/gen/godwit/v1/api.ts";
import type { Column } from "../output.ts";
import { formatBytes, formatCpus, formatDuration } from "../quantity.ts";
import { pressureText } from "./placement.ts";

/** Scripts rely on the first eight. `lease`: milliseconds that are left; negative: it ran out that long ago. */
export function nodeRow(node: NodeSummary): Record<string, unknown> {
  return {
    name: node.name,
    state: node.state,
    schedulable: node.schedulable,
    containers: node.containers,
    cpus: node.cpuMillis / 1000,
    memoryBytes: node.memoryBytes,
    load: Number(node.load.toFixed(2)),
    lease: node.leaseMs,
    cpusReserved: node.cpuReservedMillis / 1000,
    memoryReservedBytes: node.memoryReservedBytes,
    fence: node.fence,
    address: node.address,
    kernel: node.kernel,
    criu: node.criuVersion,
    diskBytes: node.diskBytes,
    diskReservedBytes: node.diskReservedBytes,
    labels: node.labels,
    pressure: node.pressure ?? null,
  };
}

const leaseText = (leaseMs: number): string =>
  leaseMs < 0 ? `out since ${formatDuration(-leaseMs)}` : formatDuration(leaseMs);

const labelsText = ({ labels }: NodeSummary): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(",") || "-";

export const NODE_COLUMNS: readonly Column<NodeSummary>[] = [
  { title: "NAME", cell: (node) => node.name },
  {
    title: "STATE",
    cell: (node) =>
      node.schedulable || node.state === "draining" || node.state === "drained"
        ? node.state
        : `${node.state},cordoned`,
  },
  { title: "CONTAINERS", cell: (node) => String(node.containers), right: true },
  { title: "CPUS", cell: (node) => formatCpus(node.cpuMillis), right: true },
  { title: "MEMORY", cell: (node) => formatBytes(node.memoryBytes), right: true },
  { title: "RESERVED", cell: (node) => formatBytes(node.memoryReservedBytes), right: true },
  { title: "LOAD", cell: (node) => node.load.toFixed(2), right: true },
  { title: "LEASE", cell: (node) => leaseText(node.leaseMs), right: true },
  { title: "FENCE", cell: (node) => node.fence, wide: true },
  {
    title: "DISK",
    cell: (node) => (node.diskBytes === 0 ? "-" : formatBytes(node.diskBytes)),
    right: true,
    wide: true,
  },
  { title: "PRESSURE", cell: (node) => pressureText(node.pressure), wide: true },
  { title: "LABELS", cell: labelsText, wide: true },
  { title: "ADDRESS", cell: (node) => node.address, wide: true },
  { title: "KERNEL", cell: (node) => node.kernel, wide: true },
  { title: "CRIU", cell: (node) => node.criuVersion, wide: true },
];
