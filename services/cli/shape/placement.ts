/** Plans of placements and projects as JSON and as tables. Pure. */
import type {
  PlacementReport,
  ProjectInfo,
  ProjectShare,
  ReasonCount,
} from "../../../proto/gen/godwit/v1/api.ts";
import type { Constraint, LabelMatch, Pressure, PublishedPort } from "../../../proto/gen/godwit/v1/spec.ts";
import { oneLine, type Column } from "../output.ts";
import { formatBytes, formatCpus } from "../quantity.ts";
import { textOrNull } from "./words.ts";

export const constraintText = ({ key, unequal, value }: Constraint): string =>
  `${key}${unequal ? "!=" : "="}${value}`;
export const matchText = ({ key, value }: LabelMatch): string => `${key}=${value}`;
export const portText = ({ containerPort, hostPort, protocol }: PublishedPort): string =>
  `${hostPort}:${containerPort}${protocol === "udp" ? "/udp" : ""}`;

export function placementDocument(report: PlacementReport): Record<string, unknown> {
  return {
    node: textOrNull(report.node),
    why: report.why,
    nodes: report.nodes.map(({ canMove, node, reasons, remark }) => ({
      node,
      fits: canMove,
      reasons,
      remark: textOrNull(remark ?? ""),
    })),
    reasons: report.reasons,
    preemption: report.preemption.map(({ container, node, to }) => ({ container, node, to: textOrNull(to) })),
  };
}

export const reasonLines = (reasons: readonly ReasonCount[]): string[] =>
  reasons.map(({ nodes, reason }) => oneLine(`  ${nodes} ${nodes === 1 ? "node" : "nodes"}: ${reason}`));

export function placementLines(name: string, report: PlacementReport): string[] {
  const lines = [
    report.node === ""
      ? `${name} would wait: ${report.why}`
      : `${name} would go to ${report.node}: ${report.why}`,
  ];
  for (const { container, node, to } of report.preemption)
    lines.push(
      to === ""
        ? `  ${container} would be stopped on ${node} until there is room for it`
        : `  ${container} would be moved from ${node} to ${to}`,
    );
  if (report.reasons.length > 0)
    lines.push("Why other nodes do not take it:", ...reasonLines(report.reasons));
  return lines.map(oneLine);
}

const limitText = (used: number, limit: number, text: (value: number) => string): string =>
  limit === 0 ? `${text(used)} of any` : `${text(used)} of ${text(limit)}`;
const NOTHING: ProjectShare = { memoryBytes: 0, cpuMillis: 0, containers: 0, diskBytes: 0 };
const share = (
  { limits = NOTHING, used = NOTHING }: ProjectInfo,
  of: keyof ProjectShare,
  text: (value: number) => string,
): string => limitText(used[of], limits[of], text);

export const PROJECT_COLUMNS: readonly Column<ProjectInfo>[] = [
  { title: "PROJECT", cell: ({ name }) => name },
  { title: "CONTAINERS", cell: (project) => share(project, "containers", String), right: true },
  { title: "MEMORY", cell: (project) => share(project, "memoryBytes", formatBytes), right: true },
  { title: "CPUS", cell: (project) => share(project, "cpuMillis", formatCpus), right: true },
  { title: "DISK", cell: (project) => share(project, "diskBytes", formatBytes), right: true },
];

const shareDocument = (share: ProjectShare = NOTHING, none: 0 | null): Record<string, unknown> => ({
  containers: share.containers || none,
  memoryBytes: share.memoryBytes || none,
  cpus: share.cpuMillis === 0 ? none : share.cpuMillis / 1000,
  diskBytes: share.diskBytes || none,
});
/** A limit that is not set is null. */
export const projectRow = ({ limits, name, used }: ProjectInfo): Record<string, unknown> => ({
  name,
  used: shareDocument(used, 0),
  limits: shareDocument(limits, null),
});

/** Percent of the time in which something waited, over the last ten seconds. */
export const pressureText = (pressure: Pressure | undefined): string =>
  pressure === undefined
    ? "not measured"
    : (
        [
          ["cpu", pressure.cpuSome],
          ["mem", pressure.memorySome],
          ["io", pressure.ioSome],
        ] as const
      )
        .map(([name, averages]) => `${name} ${Math.round(averages?.avg10 ?? 0)}%`)
        .join(" ");
