/**
 * The agent of one host: `agent/main.ts --config FILE`, started by the shim (shim/main.ts). It may die and start
 * again at any moment: containers belong to the shim and the kernel, and what it must know is in its records.
 */
import { mkdirSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { parseArgs } from "node:util";

import { connect, type NatsConnection } from "@nats-io/transport-node";
import { pino, type Logger } from "pino";

import { GodwitError } from "../proto/contract/error.ts";
import { criuVersion } from "./checkpoint/criu.ts";
import {
  CRIU_TRACKING_LIBRARY,
  type AgentConfig,
  findFence,
  findProgram,
  readAgentConfig,
  readSecret,
} from "./config.ts";
import { CONTAINERS_CGROUP } from "./container/paths.ts";
import { environmentOf } from "./container/bundle.ts";
import { CheckpointStore } from "./checkpoints/store.ts";
import { CgroupTree } from "./container/cgroup.ts";
import { Runc } from "./container/runc.ts";
import { type ExecService, serveExec } from "./exec/exec-service.ts";
import { CostBook } from "./forecast/cost-book.ts";
import { serveForecasts } from "./forecast/forecast-service.ts";
import type { Host } from "./host.ts";
import { HostFence } from "./fence/host-fence.ts";
import { HeldStore } from "./keep/held-store.ts";
import { openImageStore } from "./image/mod.ts";
import { Turns } from "./migrate/turns.ts";
import { serveLogs } from "./logs/logs-service.ts";
import { describeNode } from "./node/host-info.ts";
import { incarnationOf } from "./node/incarnation.ts";
import { Node } from "./node/node.ts";
import { hostPressure } from "./node/pressure.ts";
import { Reporter } from "./node/reporter.ts";
import { OverlayNetwork, TUNNEL } from "./network/overlay.ts";
import { PublishedPorts } from "./network/published-ports.ts";
import { ShimClient } from "./shim/client.ts";
import { loadIdentity } from "./stream/identity.ts";
import { detectWriteTracking } from "./tracking/support.ts";

/** Each has up to 20 MB of buffers, and all share one event loop. */
const COPIES_AT_A_TIME = 8;
/**
 * Containers of a host stand still one after another: what CRIU and the agent then do would take as long for two at once
 * as for one after the other, and the clients of both would wait for both. One for which this is not enough may wait for
 * a host that is gone, or be stopped for all of its copy: the next goes on.
 */
const STANDSTILL_PATIENCE_MS = 5_000;

async function connectToNats(config: AgentConfig, logger: Logger): Promise<NatsConnection> {
  const connection = await connect({
    servers: config.natsUrl.split(","),
    name: `godwit-agent-${config.node}`,
    ...(config.natsUser === undefined ? {} : { user: config.natsUser }),
    ...(config.natsPasswordFile === undefined ? {} : { pass: readSecret(config.natsPasswordFile) }),
    ...(config.natsTls === undefined ? {} : { tls: { ...config.natsTls, handshakeFirst: true } }),
    // A host never gives its cluster up: it waits for the way back, and its containers go on meanwhile.
    waitOnFirstConnect: true,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    reconnectJitter: 100,
    pingInterval: 5_000,
    maxPingOut: 2,
  });
  void (async () => {
    for await (const status of connection.status()) {
      if (status.type === "disconnect") logger.warn({ server: config.natsUrl }, "NATS is out of reach");
      if (status.type === "reconnect") logger.info("NATS is reached again");
    }
  })();
  return connection;
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: "string" } } });
  if (values.config === undefined) throw new GodwitError("invalid", "usage: agent/main.ts --config FILE");
  const config = readAgentConfig(values.config);
  const logger = pino({ level: config.logLevel ?? "info", base: { node: config.node } });
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) process.once(name, () => stop.abort());

  for (const folder of [
    config.stateDir,
    `${config.stateDir}/runc`,
    `${config.stateDir}/exec`,
    config.dataDir,
  ]) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  }
  const identity = loadIdentity(config.dataDir);
  await using stack = new AsyncDisposableStack();
  const connection = await connectToNats(config, logger);
  // What the services say at their end still goes out.
  stack.defer(() => connection.drain());
  const shim = stack.use(await ShimClient.connect(`${config.stateDir}/shim.sock`, stop.signal));
  const criuPath = config.criuPath ?? findProgram("criu");
  const runc = new Runc(config.runcPath ?? findProgram("runc"), `${config.stateDir}/runc`);
  let exec: ExecService | undefined;
  const cgroups = CgroupTree.detect();
  const containers = cgroups.container(CONTAINERS_CGROUP);
  containers.createFreezer();
  let wakeReporter = (): void => undefined;
  const fence = stack.use(
    await HostFence.open({
      program: findFence(),
      socketPath: `${config.stateDir}/fence.sock`,
      freezer: containers.freezer,
      link: TUNNEL,
      hasContainers: () => containers.isPopulated,
      logger,
      changed: () => wakeReporter(),
    }),
  );
  const host: Host = {
    config,
    connection,
    logger,
    runc,
    criuPath,
    criuVersion: await criuVersion(criuPath),
    writeTracking: detectWriteTracking(config.criuTrackingLibrary ?? CRIU_TRACKING_LIBRARY),
    cgroups,
    fence,
    images: await openImageStore({ dir: `${config.dataDir}/images`, connection, logger }),
    held: stack.use(await HeldStore.open({ folder: `${config.dataDir}/held-memory`, logger })),
    checkpoints: stack.use(
      await CheckpointStore.open({
        folder: `${config.dataDir}/checkpoints`,
        node: config.node,
        identity,
        connection,
        logger,
        changed: () => wakeReporter(),
      }),
    ),
    shim,
    identity,
    network: new OverlayNetwork(config.underlayAddress),
    ports: new PublishedPorts(),
    costs: CostBook.open(`${config.dataDir}/move-costs.json`, logger),
    turns: { toCopy: new Turns(COPIES_AT_A_TIME), toStandStill: new Turns(1, STANDSTILL_PATIENCE_MS) },
    exec: () => {
      if (exec === undefined) throw new GodwitError("unavailable", "the agent is still starting");
      return exec;
    },
  };
  if (hostPressure(host.cgroups.v2Root) === undefined)
    logger.warn(
      "this kernel does not measure pressure (PSI: CONFIG_PSI, and psi=1 at boot); placements go by load alone",
    );
  const reporter = new Reporter(host, await describeNode(host), incarnationOf(config.stateDir));
  wakeReporter = reporter.wake;
  const node = new Node(host, reporter.wake);
  exec = stack.use(
    await serveExec({
      connection,
      node: config.node,
      scratchDir: `${config.stateDir}/exec`,
      logger,
      signal: stop.signal,
      host: {
        runcPath: runc.path,
        runcArguments: runc.globalArguments,
        lookup: (id) => {
          const status = node.container(id)?.record?.status;
          if (status === undefined) return undefined;
          if (fence.isClosed) return { state: "frozen", detail: "frozen: its host has lost the scheduler" };
          if (status.kind === "running") return { state: "running", detail: "running" };
          return { state: status.kind === "frozen" ? "frozen" : "other", detail: status.kind };
        },
        defaults: (id) => {
          const record = node.container(id)?.record;
          if (record?.image.config === undefined) return { env: [], cwd: "/" };
          return {
            env: environmentOf(record.spec, record.image.config),
            cwd: record.spec.workingDir || record.image.config.workingDir || "/",
            user: record.spec.user || record.image.config.user,
          };
        },
      },
    }),
  );
  const logs = stack.use(
    await serveLogs({
      connection,
      node: config.node,
      logger,
      signal: stop.signal,
      directoryOf: (id) =>
        node.container(id)?.record === undefined ? undefined : node.container(id)?.runtime.paths.log,
    }),
  );
  stack.use(
    await serveForecasts({
      host,
      signal: stop.signal,
      running: (id) => {
        const container = node.container(id);
        const status = container?.record?.status;
        return container !== undefined && status?.kind === "running"
          ? { initPid: status.init.pid, runtime: container.runtime }
          : undefined;
      },
    }),
  );
  node.onLeave = (id, reason) => logs.end(id, reason);
  node.start();
  stack.use(node);
  reporter.start(node);
  stack.use(reporter);
  logger.info(
    {
      nats: config.natsUrl,
      criu: host.criuVersion,
      cgroups: host.cgroups.mode,
      streamKey: Buffer.from(identity.publicKey).toString("base64url"),
      writeTracking: host.writeTracking,
    },
    "the agent is up",
  );
  // For the next start, which may come after a death that writes nothing.
  flushCompileCache();
  await new Promise<void>((resolve) => {
    if (stop.signal.aborted) resolve();
    stop.signal.addEventListener("abort", () => resolve(), { once: true });
  });
  logger.info("the agent stops; its containers go on");
}

try {
  await main();
} catch (error) {
  const failure = GodwitError.from(error);
  process.stderr.write(`godwit agent: ${failure.message}\n`);
  process.exitCode = failure.code === "invalid" ? 2 : 1;
}
