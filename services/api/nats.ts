/** The connection to NATS: never given up, and one line in the log at each change of its state. */
import { readFile } from "node:fs/promises";
import { connect, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { connectionOptions } from "../../scheduler/mod.ts";
import type { ApiConfig } from "./config.ts";
import { oneLine } from "./status.ts";

const RETRY_MS = 1_000;
/** While nothing changes, the log says so again only this often. */
const REPEAT_MS = 30_000;

/** Plain data, so that it can be given to a thread. */
export const natsSettings = async (config: ApiConfig): Promise<NodeConnectionOptions> => ({
  ...connectionOptions,
  servers: config.natsUrl.split(","),
  name: `godwit-api-${config.schedulerId}`,
  // A server that comes back may know its users a moment later than its clients.
  ignoreAuthErrorAbort: true,
  ...(config.nats === undefined
    ? {}
    : { user: config.nats.user, pass: await readPassword(config.nats.passwordFile) }),
  ...(config.natsTls === undefined ? {} : { tls: { ...config.natsTls, handshakeFirst: true } }),
});

/** Resolves once connected, however long that takes; throws only when the password cannot be read or `signal` aborts. */
export async function connectNats(
  config: ApiConfig,
  logger: Logger,
  signal: AbortSignal,
): Promise<NatsConnection> {
  let saidAtMs = Number.NEGATIVE_INFINITY;
  for (;;) {
    try {
      const connection = await connect(await natsSettings(config));
      logger.info({ server: connection.getServer(), version: connection.info?.version }, "connected to NATS");
      return connection;
    } catch (error) {
      if (error instanceof GodwitError) throw error;
      const nowMs = performance.now();
      if (nowMs - saidAtMs >= REPEAT_MS) {
        saidAtMs = nowMs;
        const reason = oneLine(error instanceof Error ? error.message : String(error));
        logger.error(`NATS at ${config.natsUrl} cannot be reached (${reason}); trying on each second`);
      }
    }
    await pause(RETRY_MS, signal);
  }
}

/** Tells of every change until the connection is closed. */
export async function watchNats(
  connection: NatsConnection,
  logger: Logger,
  onChange: (connected: boolean) => void,
): Promise<void> {
  for await (const status of connection.status()) {
    switch (status.type) {
      case "disconnect":
        logger.warn({ server: status.server }, "the connection to NATS was lost; reconnecting");
        onChange(false);
        break;
      case "reconnect":
        logger.info({ server: status.server }, "connected to NATS again");
        onChange(true);
        break;
      case "slowConsumer":
        logger.warn({ pending: status.pending }, "messages from NATS are not taken fast enough");
        break;
      case "error":
        logger.warn({ reason: oneLine(status.error.message) }, "NATS reports an error");
        break;
      default:
        logger.trace({ status }, "NATS");
    }
  }
}

async function readPassword(path: string): Promise<string> {
  try {
    return (await readFile(path, "utf8")).trim();
  } catch (error) {
    throw new GodwitError(
      "invalid",
      `natsPasswordFile cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

/** Rejects with the signal's reason when it aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const onAbort = (): void => reject(GodwitError.from(signal.reason, "cancelled"));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
