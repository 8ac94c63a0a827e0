/** A whole API over a unix socket for tests: the real nats-server and scheduler, which the caller starts. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  credentials,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ServiceError,
} from "@grpc/grpc-js";
import { Objm } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { pino } from "pino";
import { IMAGE_STORE } from "../../../proto/contract/subjects.ts";
import { GodwitClient, type ContainerInfo, type ImageInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { ContainerSpec, ImageConfig } from "../../../proto/gen/godwit/v1/spec.ts";
import { startScheduler, type Scheduler, type SchedulerOptions } from "../../../scheduler/mod.ts";
import { LayerStore } from "../image/layer-store.ts";
import { startApi, type Api } from "../server.ts";

/** Answers of a unary call, or its error. */
export function ask<R>(
  start: (done: (error: ServiceError | null, response: R) => void) => unknown,
): Promise<R> {
  const { promise, resolve, reject } = Promise.withResolvers<R>();
  start((error, response) => (error === null ? resolve(response) : reject(error)));
  return promise;
}

/** The messages of a call, which leaving the loop cancels. */
export async function* messages<R, Q = never>(
  call: ClientReadableStream<R> | ClientDuplexStream<Q, R>,
): AsyncGenerator<R> {
  call.on("error", () => undefined);
  try {
    for await (const message of call) yield message as R;
  } finally {
    call.cancel();
  }
}

interface Server extends AsyncDisposable {
  readonly url: string;
  readonly settings: SchedulerOptions["settings"];
  connect(): Promise<NatsConnection>;
}

export class ApiCluster implements AsyncDisposable {
  readonly stack: AsyncDisposableStack;
  readonly folder: string;
  readonly connection: NatsConnection;
  readonly scheduler: Scheduler;
  readonly api: Api;
  readonly client: GodwitClient;

  private constructor(
    stack: AsyncDisposableStack,
    folder: string,
    connection: NatsConnection,
    scheduler: Scheduler,
    api: Api,
  ) {
    this.stack = stack;
    this.folder = folder;
    this.connection = connection;
    this.scheduler = scheduler;
    this.api = api;
    this.client = new GodwitClient(this.unixAddress, credentials.createInsecure());
    stack.defer(() => this.client.close());
  }

  /** With nodes n1 and n2 by `startAgent`. Everything is stopped when the cluster is disposed of. */
  static async start(
    startServer: () => Promise<Server>,
    startAgent: (url: string, name: string) => Promise<AsyncDisposable>,
  ): Promise<ApiCluster> {
    await using stack = new AsyncDisposableStack();
    const server = stack.use(await startServer());
    const folder = await mkdtemp(join(tmpdir(), "godwit-api-"));
    stack.defer(() => rm(folder, { recursive: true }));
    const connection = await server.connect();
    stack.defer(() => connection.close());
    const logger = pino({ level: process.env["GODWIT_TEST_LOG"] ?? "silent" });
    const scheduler = stack.use(
      await startScheduler({ connection, settings: server.settings, id: "s1", logger }),
    );
    const api = stack.use(
      await startApi({
        scheduler,
        connection,
        layers: await LayerStore.open(connection, 1),
        logger,
        listen: [
          { kind: "unix", path: join(folder, "run", "api.sock") },
          { kind: "tcp", host: "127.0.0.1", port: 0 },
        ],
        dataDir: folder,
        maxImageBytes: 2 ** 30,
        version: "1.2.3",
      }),
    );
    for (const name of ["n1", "n2"]) stack.use(await startAgent(server.url, name));
    const cluster = new ApiCluster(stack.move(), folder, connection, scheduler, api);
    await cluster.eventually("two nodes", () => Object.keys(scheduler.state().nodes).length === 2);
    return cluster;
  }

  get unixAddress(): string {
    return this.api.addresses[0] ?? "";
  }
  get tcpAddress(): string {
    return this.api.addresses[1] ?? "";
  }

  importTar(name: string, data: Buffer): Promise<ImageInfo> {
    return ask((done) => {
      const call = this.client.importImage(done);
      call.write({
        part: { $case: "header", value: { name, format: "auto", config: ImageConfig.fromPartial({}) } },
      });
      for (let from = 0; from < data.length; from += 100_000) {
        call.write({ part: { $case: "data", value: data.subarray(from, from + 100_000) } });
      }
      call.end();
    });
  }

  async storedLayers(): Promise<number> {
    const store = await new Objm(this.connection).open(IMAGE_STORE);
    return (await store.list()).length;
  }

  /** From the image "base", until it runs. */
  async run(name: string, node = ""): Promise<ContainerInfo> {
    await ask<ContainerInfo>((done) =>
      this.client.run({ spec: ContainerSpec.fromPartial({ name, image: "base", node }) }, done),
    );
    return this.untilState(name, "running");
  }

  async untilState(name: string, state: string): Promise<ContainerInfo> {
    for await (const info of messages(this.client.watchContainer({ nameOrId: name })))
      if (info.state === state) return info;
    throw new Error(`${name} went away before it was ${state}`);
  }

  async remove(name: string): Promise<void> {
    await ask((done) => this.client.removeContainer({ nameOrId: name, force: true }, done));
    const names = (): (string | undefined)[] =>
      Object.values(this.scheduler.state().containers).map((container) => container.spec?.name);
    await this.eventually(`${name} to be gone`, () => !names().includes(name));
  }

  async eventually(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    const giveUpAtMs = performance.now() + 10_000;
    while (!(await condition())) {
      if (performance.now() > giveUpAtMs) throw new Error(`waited 10 s in vain for ${what}`);
      await delay(10);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}
