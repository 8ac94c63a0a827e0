/** What `why` says. Pure. */
import type { WhyNode, WhyReport } from "../../../proto/gen/godwit/v1/api.ts";
import { oneLine, type Column } from "../output.ts";
import { formatAge } from "../quantity.ts";
import { gainWords } from "./balance.ts";
import { reasonLines } from "./placement.ts";
import { migrationDetail, migrationSummary } from "./migration.ts";
import { timeOrNull } from "./words.ts";

export function whyDocument(report: WhyReport): Record<string, unknown> {
  const { container } = report;
  return {
    name: container?.spec?.name ?? container?.id ?? "",
    id: container?.id ?? "",
    node: container?.node ?? "",
    state: container?.state ?? "",
    history: report.history.map(({ atMs, text }) => ({ at: timeOrNull(atMs), text })),
    blockers: container?.blockers ?? [],
    staysBecause: report.staysBecause,
    nodes: report.nodes,
    reasons: report.reasons,
    lastMove: report.lastMove === undefined ? null : migrationDetail(report.lastMove),
    lastFailure: report.lastFailure === undefined ? null : migrationDetail(report.lastFailure),
  };
}

export const WHY_COLUMNS: readonly Column<WhyNode>[] = [
  { title: "NODE", cell: ({ node }) => node },
  { title: "TAKES IT", cell: ({ reasons }) => (reasons.length === 0 ? "yes" : "no") },
  { title: "WHY", cell: ({ reasons, remark }) => reasons.join("; ") || remark || "-" },
];

export function whyLines(report: WhyReport, nowMs: number): string[] {
  const { container, history, lastFailure, lastMove, staysBecause } = report;
  const name = container?.spec?.name ?? container?.id ?? "";
  const lines = [
    `${name} is ${container?.state ?? "unknown"}${container?.node ? ` on ${container.node}` : ""}.`,
  ];
  const ago = (atMs: number): string => `${formatAge(nowMs - atMs)} ago`;
  for (const { atMs, text } of history) lines.push(`  ${ago(atMs)}: ${text}`);
  if (lastMove !== undefined) lines.push(`Last move: ${migrationSummary(lastMove)}`);
  const gain = lastMove === undefined ? undefined : gainWords(lastMove);
  if (gain !== undefined) lines.push(`  to balance the load: ${gain}`);
  if (lastFailure !== undefined)
    lines.push(
      `Last attempt, ${ago(lastFailure.startedAtMs)}, from ${lastFailure.from} to ${lastFailure.to}, failed: ${lastFailure.error}`,
    );
  if (staysBecause.length > 0) {
    lines.push("It cannot be moved now:");
    for (const reason of staysBecause) lines.push(`  - ${reason}`);
  } else if (!report.nodes.some(({ canMove }) => canMove)) lines.push("No other node can take it now.");
  if (report.reasons.length > 0)
    lines.push("Why other nodes do not take it:", ...reasonLines(report.reasons));
  return lines.map(oneLine);
}
