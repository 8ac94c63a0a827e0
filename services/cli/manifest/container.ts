/** The container of a service, as it is written in a file. */
import {
  ContainerSpec,
  FailoverPolicy,
  MigrationPolicy,
  PlacementStrategy,
  PreemptionPolicy,
  RestartPolicy,
  type HealthCheck,
  type Resources,
  type RestartBackoff,
} from "../../../proto/gen/godwit/v1/spec.ts";
import { addConstraint, addMatch, addPort, parsePriority } from "../placement-flags.ts";
import { FAILOVERS, POLICIES, PREEMPTIONS, RESTARTS, STRATEGIES } from "../shape/words.ts";
import type { MapReader } from "./reader.ts";

/** A text is what a shell makes of it. */
export const shellCommand = (text: string): string[] => ["/bin/sh", "-c", text];

const limits = (map: MapReader): Resources => ({
  memoryBytes: map.bytes("memory") ?? 0,
  cpuMillis: map.cpuMillis("cpus") ?? 0,
  pids: map.count("pids", "a number of processes") ?? 0,
  diskBytes: map.bytes("disk") ?? 0,
});

const PROBES = ["command", "tcp", "http"] as const;

const health = (map: MapReader): HealthCheck => {
  const command = map.textOrTexts("command", "a command for a shell, or a list of words");
  const tcpPort = map.count("tcp", "a port", 1, 65_535);
  const http = map.within("http", "a port and a path", (inner) => {
    inner.require("port", "the port that is asked");
    return {
      port: inner.count("port", "a port", 1, 65_535) ?? 0,
      path: inner.text("path", "a path such as /health") ?? "/",
    };
  });
  const given = PROBES.filter((key) => map.has(key));
  const [, second] = given;
  if (second !== undefined) map.report(second, `one of ${PROBES.join(", ")} is enough: give no other`);
  if (given.length === 0) map.require("command", "how health is checked; or give tcp or http");
  return {
    probe:
      command !== undefined
        ? {
            $case: "command",
            value: { arguments: typeof command === "string" ? shellCommand(command) : command },
          }
        : http !== undefined
          ? { $case: "http", value: http }
          : { $case: "tcpPort", value: tcpPort ?? 0 },
    intervalMs: map.durationMs("interval") ?? 0,
    timeoutMs: map.durationMs("timeout") ?? 0,
    retries: map.count("retries", "a number of failures", 1, 1_000) ?? 0,
    startPeriodMs: map.durationMs("startPeriod") ?? 0,
  };
};

interface Restart {
  readonly policy: RestartPolicy;
  readonly backoff?: RestartBackoff;
}

const restart = (map: MapReader): Restart => {
  const policy = map.choice("policy", RESTARTS) ?? RestartPolicy.ALWAYS;
  const backoff = {
    initialMs: map.durationMs("initial") ?? 0,
    maxMs: map.durationMs("max") ?? 0,
    resetAfterMs: map.durationMs("resetAfter") ?? 0,
  };
  const isGiven = Object.values(backoff).some((ms) => ms !== 0);
  return { policy, ...(isGiven ? { backoff } : {}) };
};

const PAIRS = "a list of NAME=VALUE";

/** Where its containers may be. */
const placement = (map: MapReader): Partial<ContainerSpec> => ({
  constraints: map.parsedList("constraints", `${PAIRS} or NAME!=VALUE`, addConstraint) ?? [],
  affinity: map.parsedList("affinity", PAIRS, addMatch) ?? [],
  antiAffinity: map.parsedList("antiAffinity", PAIRS, addMatch) ?? [],
  ports: map.parsedList("publish", 'a list of HOST:CONTAINER such as "8080:80"', addPort) ?? [],
  strategy: map.choice("strategy", STRATEGIES) ?? PlacementStrategy.UNSPECIFIED,
  project: map.text("project", "the name of a project") ?? "",
  priority: map.parsed("priority", "a whole number", parsePriority) ?? 0,
  preemption: map.choice("preemption", PREEMPTIONS) ?? PreemptionPolicy.UNSPECIFIED,
  failover: map.choice("failover", FAILOVERS) ?? FailoverPolicy.AUTO,
});

export const containerOf = (map: MapReader): ContainerSpec => {
  map.require("image", "the image that its containers are made from");
  const restarts = map.wordOrWithin(
    "restart",
    "always, on-failure or never, or a mapping with policy, initial, max and resetAfter",
    (word, mismatch): Restart => {
      const policy = Object.hasOwn(RESTARTS, word) ? RESTARTS[word as keyof typeof RESTARTS] : undefined;
      if (policy === undefined) throw mismatch();
      return { policy };
    },
    restart,
  );
  return ContainerSpec.fromPartial({
    image: map.text("image", "the name of an image") ?? "",
    command: map.texts("command") ?? [],
    env: map.assignments("env") ?? {},
    workingDir: map.text("workdir", "a path") ?? "",
    user: map.text("user", "a user, or user:group") ?? "",
    limits: map.within("limits", "a mapping with memory, cpus, pids and disk", limits) ?? limits0(),
    labels: map.assignments("labels") ?? {},
    restart: restarts?.policy ?? RestartPolicy.ALWAYS,
    ...(restarts?.backoff === undefined ? {} : { backoff: restarts.backoff }),
    migration: map.choice("migration", POLICIES) ?? MigrationPolicy.LIVE,
    blackoutBudgetMs: map.durationMs("blackoutBudget") ?? 0,
    noCures: !(map.flag("cures") ?? true),
    stopGraceSeconds: Math.ceil((map.durationMs("stopGrace") ?? 0) / 1_000),
    stopSignal: map.text("stopSignal", "a signal such as SIGINT") ?? "",
    ...placement(map),
    ...optional("health", map.within("health", "a mapping with command, tcp or http", health)),
  });
};

const limits0 = (): Resources => ({ memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0 });
const optional = <K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } =>
  value === undefined ? {} : ({ [key]: value } as { [P in K]: V });
