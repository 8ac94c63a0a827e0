/** Containers as JSON and as tables. Pure. */
import type { ContainerInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { MigrationPolicy, type ContainerSpec } from "../../../proto/gen/godwit/v1/spec.ts";
import { containerFields as writtenContainer } from "../manifest/document.ts";
import type { Column } from "../output.ts";
import { formatAge, formatBytes, formatCpus, formatDuration } from "../quantity.ts";
import { constraintText, matchText, portText } from "./placement.ts";
import {
  failoverWord,
  policyWord,
  preemptionWord,
  restartWord,
  strategyWord,
  textOrNull,
  timeOrNull,
} from "./words.ts";

/** The address without its prefix length: what one connects to. */
const plainAddress = (address: string): string => address.split("/", 1)[0] ?? "";
const labelText = (labels: { readonly [key: string]: string }): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(",");
const dash = (text: string): string => (text === "" ? "-" : text);

/** The fields of `ps`; scripts rely on the first nine. */
export function containerRow(info: ContainerInfo): Record<string, unknown> {
  return {
    name: info.spec?.name ?? info.id,
    id: info.id,
    image: info.spec?.image ?? "",
    node: info.node,
    state: info.state,
    address: plainAddress(info.address),
    restarts: info.restarts,
    epoch: info.epoch,
    labels: info.spec?.labels ?? {},
    message: textOrNull(info.message),
    createdAt: timeOrNull(info.createdAtMs),
    blockers: info.blockers,
    health: textOrNull(info.health),
    restartInMs: info.restartInMs === 0 ? null : info.restartInMs,
    service: textOrNull(info.service),
  };
}

/** With its health where somebody checks it, and when it is started again where it is about to be. */
function stateWord(info: ContainerInfo): string {
  if (info.restartInMs > 0) return `${info.state}, restarting in ${Math.ceil(info.restartInMs / 1_000)}s`;
  const isUp = info.state === "running" || info.state === "migrating";
  return isUp && info.health !== "" ? `${info.state} (${info.health})` : info.state;
}

/** Whether it can be moved, or what is in the way, in as few words as fit a column. */
function movesWord(info: ContainerInfo): string {
  if (info.state !== "running") return "-";
  if (info.spec?.migration === MigrationPolicy.NEVER || info.spec?.migration === MigrationPolicy.COLD)
    return policyWord(info.spec.migration);
  return info.blockers.length === 0 ? "yes" : info.blockers.map(({ kind }) => kind).join(",");
}

/** Everything about one container. */
export function containerDetail(info: ContainerInfo): Record<string, unknown> {
  const { spec } = info;
  return {
    ...containerRow(info),
    desired: info.desired,
    healthOutput: textOrNull(info.healthOutput),
    exitCode:
      info.state === "exited" || info.state === "failed" || info.state === "stopped" ? info.exitCode : null,
    memoryBytes: info.memoryBytes,
    migration: textOrNull(info.migrationId),
    spec:
      spec === undefined
        ? null
        : {
            name: spec.name,
            image: spec.image,
            imageDigest: spec.imageDigest,
            command: spec.command,
            env: spec.env,
            workingDir: spec.workingDir,
            user: spec.user,
            limits: {
              memoryBytes: spec.limits?.memoryBytes ?? 0,
              cpus: (spec.limits?.cpuMillis ?? 0) / 1000,
              pids: spec.limits?.pids ?? 0,
              diskBytes: spec.limits?.diskBytes ?? 0,
            },
            restart: restartWord(spec.restart),
            migration: policyWord(spec.migration),
            failover: failoverWord(spec.failover),
            checkpointEverySeconds: spec.checkpointEverySeconds,
            blackoutBudgetMs: spec.blackoutBudgetMs,
            labels: spec.labels,
            node: textOrNull(spec.node),
            cures: !spec.noCures,
            stopGraceSeconds: spec.stopGraceSeconds,
            stopSignal: textOrNull(spec.stopSignal),
            health: writtenContainer(spec)["health"] ?? null,
            backoff: spec.backoff ?? null,
            constraints: spec.constraints.map(constraintText),
            affinity: spec.affinity.map(matchText),
            antiAffinity: spec.antiAffinity.map(matchText),
            publish: spec.ports.map(portText),
            strategy: strategyWord(spec.strategy),
            project: spec.project || "default",
            priority: spec.priority,
            preemption: preemptionWord(spec.preemption),
          },
  };
}

export function containerColumns(nowMs: number): Column<ContainerInfo>[] {
  return [
    { title: "NAME", cell: (info) => info.spec?.name ?? info.id },
    { title: "ID", cell: (info) => info.id, wide: true },
    { title: "IMAGE", cell: (info) => info.spec?.image ?? "" },
    { title: "NODE", cell: (info) => dash(info.node) },
    { title: "STATE", cell: stateWord },
    { title: "ADDRESS", cell: (info) => dash(plainAddress(info.address)) },
    { title: "RESTARTS", cell: (info) => String(info.restarts), right: true },
    {
      title: "MEMORY",
      cell: (info) => (info.memoryBytes === 0 ? "-" : formatBytes(info.memoryBytes)),
      right: true,
    },
    { title: "AGE", cell: (info) => formatAge(nowMs - info.createdAtMs), right: true },
    { title: "MOVES", cell: movesWord },
    { title: "EPOCH", cell: (info) => String(info.epoch), right: true, wide: true },
    { title: "LABELS", cell: (info) => dash(labelText(info.spec?.labels ?? {})), wide: true },
    { title: "MESSAGE", cell: (info) => info.message, wide: true },
  ];
}

/** Rules of placing that it has. */
const ruleFields = (spec: ContainerSpec): (readonly [string, string])[] =>
  (
    [
      ["Constraints", spec.constraints.map(constraintText)],
      ["Affinity", spec.affinity.map(matchText)],
      ["Anti-affinity", spec.antiAffinity.map(matchText)],
      ["Published", spec.ports.map(portText)],
    ] as const
  )
    .filter(([, texts]) => texts.length > 0)
    .map(([name, texts]) => [name, texts.join(", ")] as const);

export function containerFields(info: ContainerInfo, nowMs: number): (readonly [string, string])[] {
  const { spec } = info;
  const limits = spec?.limits;
  const limit = (value: number, text: string): string => (value === 0 ? "none" : text);
  const rows: (readonly [string, string])[] = [
    ["Name", spec?.name ?? info.id],
    ["Id", info.id],
    [
      "State",
      info.message === "" || info.message === info.state ? info.state : `${info.state}: ${info.message}`,
    ],
    ["Desired", info.desired],
    ["Node", dash(info.node)],
    ["Epoch", String(info.epoch)],
    ["Address", dash(plainAddress(info.address))],
    ["Image", `${spec?.image ?? ""} (${spec?.imageDigest ?? ""})`],
    ["Command", spec === undefined || spec.command.length === 0 ? "the image's own" : spec.command.join(" ")],
    ["Restarts", String(info.restarts)],
    [
      "Memory",
      `${formatBytes(info.memoryBytes)}, limit ${limit(limits?.memoryBytes ?? 0, formatBytes(limits?.memoryBytes ?? 0))}`,
    ],
    ["Cpus", limit(limits?.cpuMillis ?? 0, formatCpus(limits?.cpuMillis ?? 0))],
    ["Pids", limit(limits?.pids ?? 0, String(limits?.pids ?? 0))],
    ["Disk", limit(limits?.diskBytes ?? 0, formatBytes(limits?.diskBytes ?? 0))],
    ["Restart", spec === undefined ? "-" : restartWord(spec.restart)],
    [
      "Migration",
      `${spec === undefined ? "-" : policyWord(spec.migration)}, blackout budget ${limit(spec?.blackoutBudgetMs ?? 0, formatDuration(spec?.blackoutBudgetMs ?? 0))}`,
    ],
    ["Failover", spec === undefined ? "-" : failoverWord(spec.failover)],
    [
      "Checkpoints",
      (spec?.checkpointEverySeconds ?? 0) === 0
        ? "by hand only"
        : `every ${formatDuration((spec?.checkpointEverySeconds ?? 0) * 1_000)}`,
    ],
    ["Labels", dash(labelText(spec?.labels ?? {}))],
    ["Project", spec?.project || "default"],
    [
      "Priority",
      `${spec?.priority ?? 0}, preemption ${spec === undefined ? "-" : preemptionWord(spec.preemption)}`,
    ],
    ["Created", `${formatAge(nowMs - info.createdAtMs)} ago`],
  ];
  if (info.health !== "")
    rows.push(["Health", info.healthOutput === "" ? info.health : `${info.health}: ${info.healthOutput}`]);
  if (info.restartInMs > 0) rows.push(["Restarting", `in ${Math.ceil(info.restartInMs / 1_000)} s`]);
  if (info.service !== "") rows.push(["Service", `${info.service}, revision ${info.serviceRevision}`]);
  if (spec !== undefined) rows.push(...ruleFields(spec));
  if (info.migrationId !== "") rows.push(["Moving", info.migrationId]);
  return rows;
}
