/** Flags of `run` about a container's health and its restarts. */
import type { Command } from "commander";
import { GodwitError } from "../../proto/contract/error.ts";
import { HealthCheck, RestartBackoff, type HttpProbe } from "../../proto/gen/godwit/v1/spec.ts";
import { parseCount, parseDurationMs } from "./quantity.ts";

export interface HealthFlags {
  readonly healthCmd?: string;
  readonly healthTcp?: number;
  readonly healthHttp?: HttpProbe;
  readonly healthInterval: number;
  readonly healthTimeout: number;
  readonly healthRetries: number;
  readonly healthStartPeriod: number;
  readonly restartDelay: number;
  readonly restartMaxDelay: number;
  readonly restartReset: number;
}

const port = (text: string): number => {
  const value = parseCount(text, "port", 1);
  if (value > 65_535) throw new GodwitError("invalid", `${text} is no port; write one from 1 to 65535`);
  return value;
};
/** "8080" or "8080/health" */
const httpProbe = (text: string): HttpProbe => {
  const at = text.indexOf("/");
  return { port: port(at < 0 ? text : text.slice(0, at)), path: at < 0 ? "/" : text.slice(at) };
};

export function addHealthFlags(command: Command): Command {
  return command
    .option("--health-cmd <command>", "healthy while this ends with 0 in the container, by /bin/sh")
    .option("--health-tcp <port>", "healthy while this port of the container takes connections", port)
    .option("--health-http <port[/path]>", "healthy while this answers with 200 to 399", httpProbe)
    .option("--health-interval <duration>", "between two checks (10s)", parseDurationMs, 0)
    .option("--health-timeout <duration>", "a check that takes longer has failed (5s)", parseDurationMs, 0)
    .option(
      "--health-retries <number>",
      "unhealthy, and restarted, after so many failures in a row (3)",
      (text: string) => parseCount(text, "number of failures", 1),
      0,
    )
    .option("--health-start-period <duration>", "so long failures do not count", parseDurationMs, 0)
    .option(
      "--restart-delay <duration>",
      "wait before the first restart; doubled each time (500ms)",
      parseDurationMs,
      0,
    )
    .option("--restart-max-delay <duration>", "the longest wait before a restart (30s)", parseDurationMs, 0)
    .option(
      "--restart-reset <duration>",
      "after running so long, the first wait again (1m)",
      parseDurationMs,
      0,
    );
}

export function healthOf(flags: HealthFlags): { health?: HealthCheck; backoff?: RestartBackoff } {
  const { healthCmd, healthHttp, healthTcp } = flags;
  const given = [healthCmd, healthTcp, healthHttp].filter((one) => one !== undefined);
  if (given.length > 1)
    throw new GodwitError("invalid", "give one of --health-cmd, --health-tcp and --health-http");
  const terms = {
    intervalMs: flags.healthInterval,
    timeoutMs: flags.healthTimeout,
    retries: flags.healthRetries,
    startPeriodMs: flags.healthStartPeriod,
  };
  if (given.length === 0 && Object.values(terms).some((value) => value !== 0))
    throw new GodwitError(
      "invalid",
      "say how health is checked: --health-cmd, --health-tcp or --health-http",
    );
  const probe: HealthCheck["probe"] =
    healthCmd !== undefined
      ? { $case: "command", value: { arguments: ["/bin/sh", "-c", healthCmd] } }
      : healthTcp !== undefined
        ? { $case: "tcpPort", value: healthTcp }
        : healthHttp === undefined
          ? undefined
          : { $case: "http", value: healthHttp };
  const backoff = {
    initialMs: flags.restartDelay,
    maxMs: flags.restartMaxDelay,
    resetAfterMs: flags.restartReset,
  };
  return {
    ...(probe === undefined ? {} : { health: HealthCheck.fromPartial({ ...terms, probe }) }),
    ...(Object.values(backoff).some((ms) => ms !== 0)
      ? { backoff: RestartBackoff.fromPartial(backoff) }
      : {}),
  };
}
