import type { Msg } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";
import { isId, isName } from "../../proto/contract/ids.ts";
import { forecastSubject } from "../../proto/contract/subjects.ts";
import { ForecastReply, ForecastRequest } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationForecast, MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import { walkLayer } from "../layer/scan.ts";
import { forecastMove } from "../model/forecast.ts";
import { bytesPerSecondTo, cappedRate, overheadMs, unmeasuredRate } from "../model/move-costs.ts";
import { inspect } from "../obstacles/inspect.ts";
import { forecastMessage, termsOf } from "./forecaster.ts";
import { serveProbes } from "./peer-probe.ts";
import { SubjectSampler } from "./subject-sampler.ts";

/** Each measures a container for about a second. */
const MOST_AT_A_TIME = 8;

export interface ForecastServiceOptions {
  readonly host: Host;
  /** Undefined: the container does not run on this host. */
  readonly running: (
    containerId: string,
  ) => { readonly initPid: number; readonly runtime: ContainerRuntime } | undefined;
  readonly signal: AbortSignal;
}

/** Answers what a move of one of this host's containers would cost, and other hosts' probes. */
export async function serveForecasts(options: ForecastServiceOptions): Promise<AsyncDisposable> {
  const { host } = options;
  const { connection, logger } = host;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const under = new Set<Promise<void>>();
  const answer = async (message: Msg): Promise<void> => {
    let reply: Parameters<typeof ForecastReply.fromPartial>[0];
    try {
      if (under.size >= MOST_AT_A_TIME)
        throw new GodwitError(
          "unavailable",
          "too many forecasts are being made at once; try again in a moment",
        );
      reply = { forecast: await forecast(options, message.data, signal) };
    } catch (error) {
      const { code, message: text } = GodwitError.from(error);
      reply = { error: text, errorCode: code };
    }
    message.respond(ForecastReply.encode(ForecastReply.fromPartial(reply)).finish());
  };
  const subscription = connection.subscribe(forecastSubject(host.config.node), {
    callback: (error, message) => {
      if (error !== null) {
        logger.error({ err: error }, "requests for forecasts cannot be received");
        return;
      }
      const work = answer(message).catch((failure: unknown) => {
        logger.warn({ err: failure }, "a forecast could not be answered");
      });
      under.add(work);
      void work.finally(() => under.delete(work));
    },
  });
  const probes = serveProbes(connection, host.config.node, host.costs);
  // The answer to this passes the server after our subscriptions have: from here on, requests are answered.
  await connection.flush();
  return {
    async [Symbol.asyncDispose]() {
      subscription.unsubscribe();
      probes[Symbol.dispose]();
      stopping.abort(new GodwitError("unavailable", "the agent stops"));
      await Promise.all(under);
    },
  };
}

async function forecast(
  { host, running }: ForecastServiceOptions,
  data: Uint8Array,
  signal: AbortSignal,
): Promise<MigrationForecast> {
  const request = ForecastRequest.decode(data);
  if (!isId(request.containerId) || !isName(request.to))
    throw new GodwitError("invalid", "this is no question about a move");
  const container = running(request.containerId);
  if (container === undefined)
    throw new GodwitError("refused", `the container does not run on ${host.config.node} at this moment`);
  const { initPid, runtime } = container;
  if (request.mode === MigrationMode.COLD) return await forecastCold(host, runtime, request, signal);
  const [obstacle] = (
    await inspect({ initPid, pids: runtime.cgroup.processes(), watchedPaths: runtime.watchedPaths })
  ).blockers;
  if (obstacle !== undefined) throw new GodwitError("refused", obstacle.reason);
  using sampler = new SubjectSampler(runtime, signal);
  await sampler.done;
  const subject = sampler.subject();
  if (subject === undefined || subject.processes === 0)
    throw new GodwitError("refused", "the container has no processes any more");
  const terms = await termsOf(host.connection, host.costs, {
    subject,
    to: request.to,
    mode: request.mode,
    budgetMs: request.blackoutBudgetMs,
    canThrottle: runtime.cgroup.canLimitCpu,
    bandwidthBytesPerSecond: request.bandwidthBytesPerSecond || (host.config.moveBytesPerSecond ?? 0),
  });
  return forecastMessage(terms, forecastMove(terms));
}

/** How long its programs take to end and to begin is theirs to know, so of a cold move only the copying is foretold. */
async function forecastCold(
  host: Host,
  runtime: ContainerRuntime,
  request: ForecastRequest,
  signal: AbortSignal,
): Promise<MigrationForecast> {
  let filesystemBytes = 0;
  for await (const { stamp } of walkLayer(Buffer.from(runtime.paths.upper), signal))
    if (stamp.kind === "file") filesystemBytes += stamp.sizeBytes;
  const cap = request.bandwidthBytesPerSecond || (host.config.moveBytesPerSecond ?? 0);
  const rate = cappedRate(
    bytesPerSecondTo(host.costs.costs, request.to) ?? unmeasuredRate(undefined, 1),
    cap,
    1,
  );
  return MigrationForecast.fromPartial({
    mode: MigrationMode.COLD,
    totalMs: overheadMs(host.costs.costs) + (filesystemBytes / rate) * 1000,
    sentBytes: filesystemBytes,
    filesystemBytes,
    copyBytesPerSecond: rate,
  });
}
