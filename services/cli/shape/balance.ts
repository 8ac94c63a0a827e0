/** The balancer as JSON and as tables. Pure. */
import type { BalanceNode, BalanceReport, MigrationInfo } from "../../../proto/gen/godwit/v1/api.ts";
import {
  BalancePolicy,
  type BalanceAdvice,
  type BalanceForecast,
  type BalanceOutcome,
  type BalanceSettings,
} from "../../../proto/gen/godwit/v1/spec.ts";
import type { Column } from "../output.ts";
import { formatAge, formatBytes, formatDuration } from "../quantity.ts";
import { textOrNull, timeOrNull } from "./words.ts";

const POLICY_WORDS: { readonly [P in BalancePolicy]: string } = {
  [BalancePolicy.UNSPECIFIED]: "recommend",
  [BalancePolicy.OFF]: "off",
  [BalancePolicy.RECOMMEND]: "recommend",
  [BalancePolicy.AUTO]: "auto",
};
export const balancePolicyWord = (policy: BalancePolicy | undefined): string =>
  POLICY_WORDS[policy ?? BalancePolicy.UNSPECIFIED];

const share = (value: number): number => Number(value.toFixed(4));
export const percent = (value: number): string => `${Math.round(value * 100)}%`;
/** Differences between shares. */
export const points = (value: number): string => `${Math.round(value * 100)} points`;

export const forecastDocument = (forecast: BalanceForecast | undefined): Record<string, unknown> => ({
  fromLoad: share(forecast?.fromLoad ?? 0),
  toLoad: share(forecast?.toLoad ?? 0),
  cpus: Number(((forecast?.cpuMillis ?? 0) / 1_000).toFixed(3)),
  memoryBytes: forecast?.memoryBytes ?? 0,
  predictedGain: share(forecast?.predictedGain ?? 0),
  blackoutMs: Math.round(forecast?.blackoutMs ?? 0),
  totalMs: Math.round(forecast?.totalMs ?? 0),
  sentBytes: forecast?.sentBytes ?? 0,
  benefitCoreSeconds: Number((forecast?.benefitCoreSeconds ?? 0).toFixed(2)),
  costCoreSeconds: Number((forecast?.costCoreSeconds ?? 0).toFixed(2)),
});

export const outcomeDocument = (outcome: BalanceOutcome | undefined): Record<string, unknown> | null =>
  outcome === undefined
    ? null
    : {
        measuredAt: timeOrNull(outcome.measuredAtMs),
        actualGain: outcome.remark === "" ? share(outcome.actualGain) : null,
        missed: outcome.missed,
        remark: textOrNull(outcome.remark),
      };

/** Of a migration that the balancer made; null: it did not. */
export const balanceDocument = (
  info: Pick<MigrationInfo, "balance" | "balanceOutcome">,
): Record<string, unknown> | null =>
  info.balance === undefined
    ? null
    : { ...forecastDocument(info.balance), outcome: outcomeDocument(info.balanceOutcome) };

/** "expected to even the two nodes by 30 points (n1 70%, n2 20%); it gained 28 points" */
export function gainWords({ balance, balanceOutcome, from, to }: MigrationInfo): string | undefined {
  if (balance === undefined) return undefined;
  const expected = `expected to bring the loads of ${from} (${percent(balance.fromLoad)}) and ${to} (${percent(balance.toLoad)}) ${points(balance.predictedGain)} closer`;
  if (balanceOutcome === undefined) return `${expected}; not measured yet`;
  if (balanceOutcome.remark !== "") return `${expected}; ${balanceOutcome.remark}`;
  return `${expected}; it gained ${points(balanceOutcome.actualGain)}${balanceOutcome.missed ? " (missed)" : ""}`;
}

const adviceDocument = ({ container, containerId, forecast, from, to }: BalanceAdvice) => ({
  container,
  containerId,
  from,
  to,
  ...forecastDocument(forecast),
});

export const planDocument = (
  moves: readonly BalanceAdvice[],
  idleBecause: readonly string[],
): Record<string, unknown> => ({ moves: moves.map(adviceDocument), idleBecause: [...idleBecause] });

const settingsDocument = (settings: BalanceSettings): Record<string, unknown> => {
  const { freezeUntilMs, policy, ...rest } = settings;
  return { ...rest, policy: balancePolicyWord(policy), freezeUntil: timeOrNull(freezeUntilMs) };
};

const moveDocument = (info: MigrationInfo): Record<string, unknown> => ({
  id: info.id,
  container: info.container,
  from: info.from,
  to: info.to,
  state: info.state,
  startedAt: timeOrNull(info.startedAtMs),
  endedAt: timeOrNull(info.endedAtMs),
  actualBlackoutMs: Number((info.figures?.blackoutMs ?? 0).toFixed(3)),
  error: textOrNull(info.error),
  ...balanceDocument(info),
});

export function balanceStatusDocument(report: BalanceReport): Record<string, unknown> {
  return {
    policy: balancePolicyWord(report.settings?.policy),
    paused: textOrNull(report.pausedReason),
    pausedAt: timeOrNull(report.pausedAtMs),
    idleBecause: report.idleBecause,
    imbalance: share(report.imbalance),
    meanLoad: share(report.meanLoad),
    nodes: report.nodes.map((node) => ({
      node: node.node,
      load: share(node.load),
      cpu: share(node.cpu),
      memory: share(node.memory),
      cpuPressure: node.cpuPressure === undefined ? null : share(node.cpuPressure),
      memoryPressure: node.memoryPressure === undefined ? null : share(node.memoryPressure),
      hotRounds: node.hotRounds,
      remark: textOrNull(node.remark),
    })),
    advice: report.advice.map(adviceDocument),
    advisedAt: timeOrNull(report.advisedAtMs),
    moves: report.moves.map(moveDocument),
    missesInARow: report.missesInARow,
    settings: report.settings === undefined ? null : settingsDocument(report.settings),
  };
}

export function balanceLines(report: BalanceReport, nowMs: number): [string, string][] {
  const { settings } = report;
  const lines: [string, string][] = [["Policy", balancePolicyWord(settings?.policy)]];
  if (report.pausedReason !== "")
    lines.push(["Paused", `${formatAge(nowMs - report.pausedAtMs)} ago: ${report.pausedReason}`]);
  lines.push([
    "Imbalance",
    `${points(report.imbalance)} above the mean of ${percent(report.meanLoad)}; ${points(settings?.threshold ?? 0)} for ${settings?.holdRounds ?? 0} rounds of ${formatDuration(settings?.roundMs ?? 0)} are too much`,
  ]);
  for (const why of report.idleBecause) if (why !== report.pausedReason) lines.push(["Idle", why]);
  if (settings !== undefined) {
    if (settings.windows.length > 0) lines.push(["Windows", `${settings.windows.join(", ")} (UTC)`]);
    if (settings.freezeUntilMs > nowMs)
      lines.push(["Frozen until", new Date(settings.freezeUntilMs).toISOString()]);
    lines.push([
      "Limits",
      `${settings.parallel} moves at once, ${settings.parallelPerNode} of a node; each container every ${formatDuration(settings.coolDownMs)}; ${settings.blackoutBudgetMs === 0 ? "no blackout budget" : `blackout up to ${formatDuration(settings.blackoutBudgetMs)}`}`,
    ]);
  }
  return lines;
}

const pressure = (value: number | undefined): string => (value === undefined ? "-" : percent(value));

export const BALANCE_NODE_COLUMNS: readonly Column<BalanceNode>[] = [
  { title: "NODE", cell: ({ node }) => node },
  { title: "LOAD", cell: ({ load }) => percent(load), right: true },
  { title: "CPU", cell: ({ cpu }) => percent(cpu), right: true },
  { title: "MEMORY", cell: ({ memory }) => percent(memory), right: true },
  { title: "CPU PRESSURE", cell: ({ cpuPressure }) => pressure(cpuPressure), right: true },
  {
    title: "MEMORY PRESSURE",
    cell: ({ memoryPressure }) => pressure(memoryPressure),
    right: true,
    wide: true,
  },
  { title: "HOT FOR", cell: ({ hotRounds }) => (hotRounds === 0 ? "-" : `${hotRounds} rounds`), right: true },
  { title: "REMARK", cell: ({ remark }) => remark || "-" },
];

export const ADVICE_COLUMNS: readonly Column<BalanceAdvice>[] = [
  { title: "CONTAINER", cell: ({ container }) => container },
  { title: "FROM", cell: ({ forecast, from }) => `${from} (${percent(forecast?.fromLoad ?? 0)})` },
  { title: "TO", cell: ({ forecast, to }) => `${to} (${percent(forecast?.toLoad ?? 0)})` },
  { title: "CPU", cell: ({ forecast }) => ((forecast?.cpuMillis ?? 0) / 1_000).toFixed(2), right: true },
  { title: "GAIN", cell: ({ forecast }) => points(forecast?.predictedGain ?? 0), right: true },
  { title: "BLACKOUT", cell: ({ forecast }) => formatDuration(forecast?.blackoutMs ?? 0), right: true },
  { title: "SENT", cell: ({ forecast }) => formatBytes(forecast?.sentBytes ?? 0), right: true },
  {
    title: "WORTH",
    cell: ({ forecast }) =>
      `${(forecast?.benefitCoreSeconds ?? 0).toFixed(1)} for ${(forecast?.costCoreSeconds ?? 0).toFixed(1)} core-s`,
    right: true,
  },
];

export const balanceMoveColumns = (nowMs: number): Column<MigrationInfo>[] => [
  { title: "ID", cell: ({ id }) => id },
  { title: "CONTAINER", cell: ({ container }) => container },
  { title: "FROM", cell: ({ balance, from }) => `${from} (${percent(balance?.fromLoad ?? 0)})` },
  { title: "TO", cell: ({ balance, to }) => `${to} (${percent(balance?.toLoad ?? 0)})` },
  { title: "STATE", cell: ({ state }) => state },
  { title: "PREDICTED", cell: ({ balance }) => points(balance?.predictedGain ?? 0), right: true },
  {
    title: "GAINED",
    cell: ({ balanceOutcome }) =>
      balanceOutcome === undefined || balanceOutcome.remark !== "" ? "-" : points(balanceOutcome.actualGain),
    right: true,
  },
  {
    title: "BLACKOUT",
    cell: ({ balance, figures }) =>
      `${formatDuration(figures?.blackoutMs ?? 0)} (expected ${formatDuration(balance?.blackoutMs ?? 0)})`,
    right: true,
  },
  { title: "AGE", cell: ({ startedAtMs }) => formatAge(nowMs - startedAtMs), right: true },
  {
    title: "REMARK",
    cell: ({ balanceOutcome, error }) =>
      error || (balanceOutcome?.remark ?? "") || (balanceOutcome?.missed === true ? "missed" : "-"),
  },
];
