/** `services/api/main.ts --config FILE`: scheduler and public API in one process. */
import { mkdir, readFile } from "node:fs/promises";
import { flushCompileCache } from "node:module";
import { parseArgs } from "node:util";
import { pino, type Logger } from "pino";
import type { NatsConnection } from "@nats-io/transport-node";
import { GodwitError } from "../../proto/contract/error.ts";
import { startScheduler, type Scheduler } from "../../scheduler/mod.ts";
import { parseConfig, type ApiConfig } from "./config.ts";
import { LayerStore } from "./image/layer-store.ts";
import { connectNats, natsSettings, pause, watchNats } from "./nats.ts";
import { startApi } from "./server.ts";
import { oneLine } from "./status.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const RETRY_MS = 2_000;

async function run(config: ApiConfig, root: Logger, logger: Logger, stop: AbortSignal): Promise<void> {
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
  const connection = await connectNats(config, logger, stop);
  try {
    await using scheduler = await untilAvailable("the scheduler", logger, stop, () =>
      startingScheduler(config, connection, root.child({ part: "scheduler" })),
    );
    const layers = await untilAvailable("the image store", logger, stop, () =>
      LayerStore.open(connection, config.replicas),
    );
    await using api = await startApi({
      scheduler,
      connection,
      layers,
      logger,
      listen: config.listen,
      ...(config.tls === undefined ? {} : { tls: config.tls }),
      dataDir: config.dataDir,
      maxImageBytes: config.maxImageBytes,
      version: await version(),
    });
    flushCompileCache();
    const watching = watchNats(connection, logger, (connected) => api.setServing(connected));
    const { promise: stopped, resolve } = Promise.withResolvers<void>();
    if (stop.aborted) resolve();
    stop.addEventListener("abort", () => resolve(), { once: true });
    await Promise.race([stopped, watching]);
    if (!stop.aborted) throw new GodwitError("unavailable", "the connection to NATS was closed for good");
    logger.info("stopping");
  } finally {
    await connection.close();
  }
}

async function startingScheduler(
  config: ApiConfig,
  connection: NatsConnection,
  logger: Logger,
): Promise<Scheduler> {
  const { advertise, leaderLeaseMs, schedulerId: id, replicas, leaseMs, snapshotEvery } = config;
  return startScheduler({
    connection,
    settings: await natsSettings(config),
    id,
    logger,
    replicas,
    leaseMs,
    ...(leaderLeaseMs === undefined ? {} : { leaderLeaseMs }),
    addresses: advertise,
    snapshotEvery,
  });
}

/** NATS may be up before JetStream answers, and may go away again at any moment of a start. */
async function untilAvailable<T>(
  what: string,
  logger: Logger,
  stop: AbortSignal,
  start: () => Promise<T>,
): Promise<T> {
  for (;;) {
    try {
      return await start();
    } catch (error) {
      const failure = GodwitError.from(error);
      if (!failure.retryable || stop.aborted) throw failure;
      logger.error(`${what} cannot start yet (${oneLine(failure.message)}); trying on`);
    }
    await pause(RETRY_MS, stop);
  }
}

async function version(): Promise<string> {
  const text = await readFile(new URL("../../package.json", import.meta.url), "utf8");
  const json = JSON.parse(text) as { version: string };
  return json.version;
}

async function readConfig(argv: string[]): Promise<ApiConfig> {
  const { values } = parseArgs({ args: argv, options: { config: { type: "string" } }, strict: true });
  if (values.config === undefined)
    throw new GodwitError("invalid", "usage: services/api/main.ts --config FILE");
  try {
    return parseConfig(await readFile(values.config, "utf8"));
  } catch (error) {
    const { message } = GodwitError.from(error);
    throw new GodwitError("invalid", `the configuration ${values.config} cannot be used: ${message}`, {
      cause: error,
    });
  }
}

// The socket, spool files and folders are nobody else's business.
process.umask(0o077);
const stop = new AbortController();
for (const name of ["SIGTERM", "SIGINT"] as const) {
  process.once(name, () => stop.abort(new GodwitError("cancelled", `stopped by ${name}`)));
}
try {
  const config = await readConfig(process.argv.slice(2));
  const root = pino({ level: config.logLevel, base: null });
  const logger = root.child({ part: "api" });
  try {
    await run(config, root, logger, stop.signal);
  } catch (error) {
    const failure = GodwitError.from(error);
    if (!stop.signal.aborted) {
      logger.fatal({ err: error }, oneLine(failure.message));
      process.exitCode = failure.code === "invalid" ? EXIT_USAGE : EXIT_FAILED;
    }
  }
} catch (error) {
  process.stderr.write(`godwit api: ${oneLine(GodwitError.from(error).message)}\n`);
  process.exitCode = EXIT_USAGE;
}
