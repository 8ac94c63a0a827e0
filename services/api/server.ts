/** The gRPC server: the public API, health and reflection, in front of a scheduler. */
import { Server, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { HealthImplementation } from "grpc-health-check";
import type { NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";
import {
  GodwitService,
  type ApplyServicesRequest,
  type GodwitServer,
} from "../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import type { Scheduler } from "../../scheduler/mod.ts";
import { Calls } from "./calls.ts";
import type { ListenAddress, TlsFiles } from "./config.ts";
import { LayerLedger, type LayerObjects } from "./image/layer-ledger.ts";
import { SpoolFolder } from "./image/spool.ts";
import { LeaderGate } from "./leader-gate.ts";
import { bind } from "./listen.ts";
import { addReflection } from "./reflection.ts";
import { BalanceService } from "./service/balance.ts";
import { ContainerService } from "./service/containers.ts";
import { CheckpointService } from "./service/checkpoints.ts";
import { setFailover } from "./service/failover.ts";
import { ImageService } from "./service/images.ts";
import { MaintenanceService } from "./service/maintenance.ts";
import { MigrationService } from "./service/migrations.ts";
import { NodeService } from "./service/nodes.ts";
import { ServiceService } from "./service/services.ts";
import { PlacementService } from "./service/placement.ts";
import { runExec } from "./session/exec.ts";
import { readLogs } from "./session/logs.ts";

export interface ApiOptions {
  readonly scheduler: Scheduler;
  readonly connection: NatsConnection;
  readonly layers: LayerObjects;
  readonly logger: Logger;
  readonly listen: readonly ListenAddress[];
  readonly tls?: TlsFiles;
  readonly dataDir: string;
  readonly maxImageBytes: number;
  readonly version: string;
  readonly nowMs?: () => number;
}

export interface Api extends AsyncDisposable {
  /** As clients write them: "unix:/run/godwit/api.sock", "127.0.0.1:7400". */
  readonly addresses: readonly string[];
  /** What the health service says: false while calls cannot succeed. */
  setServing(serving: boolean): void;
}

/** A request is at most this large; archives and input come in pieces. */
const MAX_REQUEST_BYTES = 4 * 2 ** 20;
/** Calls that are nearly done get this long at a stop. */
const DRAIN_MS = 2_000;
/** For the last answer to get out. */
const LAST_ANSWER_MS = 100;
const SERVICE = "godwit.v1.Godwit";

export async function startApi(options: ApiOptions): Promise<Api> {
  const { scheduler, connection, logger } = options;
  const nowMs = options.nowMs ?? Date.now;
  const stopping = new AbortController();
  const spool = await SpoolFolder.open(options.dataDir, options.maxImageBytes);
  const ledger = new LayerLedger(options.layers, logger);
  const images = new ImageService(scheduler, {
    spool,
    ledger,
    logger,
    maxImageBytes: options.maxImageBytes,
    nowMs,
  });
  const gate = new LeaderGate(scheduler, stopping.signal);
  const nodes = new NodeService(scheduler, gate, {
    godwit: options.version,
    nats: () => connection.info?.version ?? "",
  });
  const server = new Server({
    "grpc.max_receive_message_length": MAX_REQUEST_BYTES,
    // Answers are ours; a list of very many containers may be large.
    "grpc.max_send_message_length": -1,
    // A client whose host vanished is noticed, and what runs for it is ended.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
  });
  const calls = new Calls(logger, stopping.signal, gate);
  const implementation = {
    ...handlers(calls, scheduler, connection, images, nodes),
    ...balanceHandlers(calls, new BalanceService(scheduler, nowMs)),
  };
  server.addService(GodwitService, implementation as GodwitServer & UntypedServiceImplementation);
  const health = new HealthImplementation({ "": "SERVING", [SERVICE]: "SERVING" });
  health.addToServer(server);
  addReflection(server);

  const addresses: string[] = [];
  try {
    for (const address of options.listen) addresses.push(await bind(server, address, options.tls));
  } catch (error) {
    server.forceShutdown();
    throw error;
  }
  logger.info({ addresses }, "the API listens");
  const collecting = images.collectUnused(stopping.signal).catch((error: unknown) => {
    logger.error({ err: error }, "unused layers are not deleted any more; the next start sweeps them");
  });

  const setServing = (serving: boolean): void => {
    for (const name of ["", SERVICE]) health.setStatus(name, serving ? "SERVING" : "NOT_SERVING");
  };
  return {
    addresses,
    setServing,
    async [Symbol.asyncDispose]() {
      setServing(false);
      const { promise: drained, resolve } = Promise.withResolvers<void>();
      server.tryShutdown(() => resolve());
      stopping.abort(new GodwitError("unavailable", "the API is stopping"));
      const timer = setTimeout(resolve, DRAIN_MS);
      // Clients keep their connections open for as long as they are there: what is waited for is the last answer.
      void calls.idle().then(() => setTimeout(resolve, LAST_ANSWER_MS));
      await drained;
      clearTimeout(timer);
      server.forceShutdown();
      await collecting;
      await gate.watching;
    },
  };
}

function handlers(
  calls: Calls,
  scheduler: Scheduler,
  connection: NatsConnection,
  images: ImageService,
  nodes: NodeService,
): Partial<GodwitServer> {
  const containers = new ContainerService(scheduler);
  const services = new ServiceService(scheduler);
  const planned = calls.unary((request: ApplyServicesRequest) => services.apply(request));
  const applied = calls.change((request: ApplyServicesRequest) => services.apply(request));
  const checkpoints = new CheckpointService(scheduler);
  const migrations = new MigrationService(scheduler, connection);
  const maintenance = new MaintenanceService(scheduler, connection);
  const placement = new PlacementService(scheduler);
  return {
    status: calls.anywhere((request, signal) => nodes.status(request, signal)),
    leader: calls.unary(() => Promise.resolve({ id: scheduler.id })),
    importImage: calls.clientStream((requests, signal) => images.import(requests, signal)),
    listImages: calls.unary(() => images.list()),
    removeImage: calls.change((request) => images.remove(request)),
    run: calls.change((request) => containers.run(request)),
    planRun: calls.unary((request) => placement.planRun(request)),
    listContainers: calls.unary((request) => containers.list(request)),
    why: calls.unary((request) => containers.why(request)),
    inspectContainer: calls.unary((request) => containers.inspect(request)),
    watchContainer: calls.leaderStream((request, signal) => containers.watch(request, signal)),
    setDesired: calls.change((request) => containers.setDesired(request)),
    removeContainer: calls.change((request) => containers.remove(request)),
    exec: calls.duplex((requests, signal) => runExec(scheduler, connection, requests, signal)),
    logs: calls.serverStream((request, signal) => readLogs(scheduler, connection, request, signal)),
    move: calls.change((request) => migrations.move(request)),
    watchMigration: calls.leaderStream((request, signal) => migrations.watch(request, signal)),
    listMigrations: calls.unary((request) => migrations.list(request)),
    cancelMigration: calls.change((request) => migrations.cancel(request)),
    listNodes: calls.unary(() => nodes.list()),
    trustNodeKey: calls.change((request) => nodes.trustKey(request)),
    setSchedulable: calls.change((request) => nodes.setSchedulable(request)),
    createCheckpoint: calls.change((request) => checkpoints.create(request)),
    listCheckpoints: calls.unary((request) => checkpoints.list(request)),
    restoreCheckpoint: calls.change((request) => checkpoints.restore(request)),
    removeCheckpoint: calls.change((request) => checkpoints.remove(request)),
    setFailover: calls.change((request) => setFailover(scheduler, request)),
    removeNode: calls.change((request) => nodes.remove(request)),
    drain: calls.leaderStream((request, signal) => maintenance.drain(request, signal)),
    cancelDrain: calls.change((request) => maintenance.cancelDrain(request)),
    returnNode: calls.leaderStream((request, signal) => maintenance.returnNode(request, signal)),
    cancelReturn: calls.change((request) => maintenance.cancelReturn(request)),
    setNodeLabels: calls.change((request) => placement.setNodeLabels(request)),
    listProjects: calls.unary(() => placement.listProjects()),
    setProject: calls.change((request) => placement.setProject(request)),
    removeProject: calls.change((request) => placement.removeProject(request)),
    getPlacementDefault: calls.unary(() => placement.placementDefault()),
    setPlacementDefault: calls.change((request) => placement.setPlacementDefault(request)),
    events: calls.serverStream((request, signal) => nodes.events(request, signal)),
    // A dry run only reads, and what it reads must not be stale.
    applyServices: (call, callback) => (call.request.dryRun ? planned : applied)(call, callback),
    listServices: calls.unary(() => services.list()),
    inspectService: calls.unary((request) => services.inspect(request)),
    watchService: calls.leaderStream((request, signal) => services.watch(request, signal)),
    scaleService: calls.change((request) => services.scale(request)),
    rollBackService: calls.change((request) => services.rollBack(request)),
    removeService: calls.change((request) => services.remove(request)),
  };
}

const balanceHandlers = (calls: Calls, balance: BalanceService): Partial<GodwitServer> => ({
  balanceStatus: calls.unary(() => balance.status()),
  setBalance: calls.unary((request) => balance.set(request)),
  planBalance: calls.unary(() => balance.plan()),
  runBalance: calls.unary(() => balance.run()),
  listStats: calls.unary((request) => balance.stats(request)),
});
