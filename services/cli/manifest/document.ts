/** A service in the words of its file, without what is left at its default. Pure. */
import {
  OnFailure,
  UpdateOrder,
  type ServiceSpec,
  type SpreadRule,
} from "../../../proto/gen/godwit/v1/service.ts";
import {
  FailoverPolicy,
  MigrationPolicy,
  PlacementStrategy,
  PreemptionPolicy,
  RestartPolicy,
  type ContainerSpec,
  type HealthCheck,
} from "../../../proto/gen/godwit/v1/spec.ts";
import { formatCpus } from "../quantity.ts";
import { constraintText, matchText, portText } from "../shape/placement.ts";
import { policyWord, preemptionWord, restartWord, strategyWord } from "../shape/words.ts";

export type Plain =
  string | number | boolean | readonly Plain[] | { readonly [key: string]: Plain | undefined };
type Fields = { readonly [key: string]: Plain | undefined };

/** Without keys that have no value. */
const compact = (fields: Fields): Fields | undefined => {
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined);
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
};
const unlessEmpty = (text: string): string | undefined => (text === "" ? undefined : text);
const unlessNone = (list: readonly string[]): readonly string[] | undefined =>
  list.length === 0 ? undefined : list;
const unlessZero = (value: number): number | undefined => (value === 0 ? undefined : value);

/** Exactly, and as it can be written in a file. */
export const durationText = (ms: number): string | undefined => {
  if (ms === 0) return undefined;
  if (ms % 3_600_000 === 0) return `${ms / 3_600_000}h`;
  if (ms % 60_000 === 0) return `${ms / 60_000}m`;
  return ms % 1_000 === 0 ? `${ms / 1_000}s` : `${ms}ms`;
};
const sizeText = (bytes: number): string | undefined => {
  if (bytes === 0) return undefined;
  for (const [unit, factor] of [
    ["g", 2 ** 30],
    ["m", 2 ** 20],
    ["k", 2 ** 10],
  ] as const)
    if (bytes % factor === 0) return `${bytes / factor}${unit}`;
  return String(bytes);
};

const healthFields = (health: HealthCheck | undefined): Fields | undefined => {
  if (health === undefined) return undefined;
  const { intervalMs, probe, retries, startPeriodMs, timeoutMs } = health;
  const words = probe?.$case === "command" ? probe.value.arguments : [];
  const isShell = words.length === 3 && words[0] === "/bin/sh" && words[1] === "-c";
  return compact({
    command: words.length === 0 ? undefined : isShell ? words[2] : words,
    tcp: probe?.$case === "tcpPort" ? probe.value : undefined,
    http: probe?.$case === "http" ? { port: probe.value.port, path: probe.value.path } : undefined,
    interval: durationText(intervalMs),
    timeout: durationText(timeoutMs),
    retries: unlessZero(retries),
    startPeriod: durationText(startPeriodMs),
  });
};

const restartFields = ({ backoff, restart }: ContainerSpec): Fields | undefined =>
  compact({
    policy:
      restart === RestartPolicy.UNSPECIFIED || restart === RestartPolicy.ALWAYS
        ? undefined
        : restartWord(restart),
    initial: durationText(backoff?.initialMs ?? 0),
    max: durationText(backoff?.maxMs ?? 0),
    resetAfter: durationText(backoff?.resetAfterMs ?? 0),
  });

export const containerFields = (spec: ContainerSpec): Fields => ({
  image: spec.image,
  command: spec.command.length === 0 ? undefined : spec.command,
  env: compact(spec.env),
  workdir: unlessEmpty(spec.workingDir),
  user: unlessEmpty(spec.user),
  limits: compact({
    memory: sizeText(spec.limits?.memoryBytes ?? 0),
    cpus: unlessEmpty(spec.limits?.cpuMillis ? formatCpus(spec.limits.cpuMillis) : ""),
    pids: unlessZero(spec.limits?.pids ?? 0),
    disk: sizeText(spec.limits?.diskBytes ?? 0),
  }),
  labels: compact(spec.labels),
  health: healthFields(spec.health),
  restart: restartFields(spec),
  migration:
    spec.migration === MigrationPolicy.UNSPECIFIED || spec.migration === MigrationPolicy.LIVE
      ? undefined
      : policyWord(spec.migration),
  blackoutBudget: durationText(spec.blackoutBudgetMs),
  constraints: unlessNone(spec.constraints.map(constraintText)),
  affinity: unlessNone(spec.affinity.map(matchText)),
  antiAffinity: unlessNone(spec.antiAffinity.map(matchText)),
  publish: unlessNone(spec.ports.map(portText)),
  strategy: spec.strategy === PlacementStrategy.UNSPECIFIED ? undefined : strategyWord(spec.strategy),
  project: unlessEmpty(spec.project),
  priority: unlessZero(spec.priority),
  preemption: spec.preemption === PreemptionPolicy.UNSPECIFIED ? undefined : preemptionWord(spec.preemption),
  failover: spec.failover === FailoverPolicy.NEVER ? "never" : undefined,
  cures: spec.noCures ? false : undefined,
  stopGrace: durationText(spec.stopGraceSeconds * 1_000),
  stopSignal: unlessEmpty(spec.stopSignal),
});

const spreadFields = ({ label, maxSkew }: SpreadRule): Plain => ({
  over: label === "" ? "node" : label,
  ...(maxSkew === 0 ? {} : { maxSkew }),
});

export const serviceFields = (spec: ServiceSpec): Fields => {
  const { disruption, spread, template, update } = spec;
  const limit = disruption?.limit;
  return {
    name: spec.name,
    replicas: spec.replicas,
    spread: spread.length === 0 ? undefined : spread.map(spreadFields),
    update: compact({
      batch: unlessZero(update?.batch ?? 0),
      pause: durationText(update?.pauseMs ?? 0),
      order: update?.order === UpdateOrder.START_FIRST ? "start-first" : undefined,
      onFailure: update?.onFailure === OnFailure.PAUSE ? "pause" : undefined,
      monitor: durationText(update?.monitorMs ?? 0),
      timeout: durationText(update?.timeoutMs ?? 0),
    }),
    disruption:
      limit === undefined
        ? undefined
        : { maxUnavailable: limit.$case === "maxUnavailable" ? limit.value : `${limit.value}%` },
    container: template === undefined ? undefined : containerFields(template),
  };
};
