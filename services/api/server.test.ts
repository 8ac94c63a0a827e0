/** Listening, containers, moves and drains over a unix socket; agents are simulated. */
import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { connect as connectSocket } from "node:net";
import { join } from "node:path";
import {
  Client,
  credentials,
  makeClientConstructor,
  Metadata,
  status,
  type ServiceError,
} from "@grpc/grpc-js";
import { service as healthDefinition } from "grpc-health-check";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type {
  ClusterStatus,
  ContainerInfo,
  DrainStatus,
  ListContainersResponse,
  ListMigrationsResponse,
  ListNodesResponse,
  MigrationInfo,
  ServiceInfo,
} from "../../proto/gen/godwit/v1/api.ts";
import type { CheckpointInfo, ListCheckpointsResponse } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { ContainerSpec, MigrationMode, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { NatsServer } from "../../scheduler/testing/nats-server.ts";
import { SimulatedAgent } from "../../scheduler/testing/simulated-agent.ts";
import { tarOf } from "./image/testing/archives.ts";
import { ApiCluster, ask, messages } from "./testing/api-cluster.ts";
import { LayerStore } from "./image/layer-store.ts";
import { startApi } from "./server.ts";

const silent = pino({ level: "silent" });
let cluster: ApiCluster;
beforeAll(async () => {
  cluster = await ApiCluster.start(
    () => NatsServer.start(),
    (url, name) => SimulatedAgent.start(url, name),
  );
  await cluster.importTar("base", await tarOf([{ name: "bin/app", content: "app" }]));
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

describe("listening", () => {
  test("the socket is its owner's alone, and a second API is told that it is taken", async () => {
    const path = join(cluster.folder, "run", "api.sock");
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await stat(join(cluster.folder, "run"))).mode & 0o777).toBe(0o700);
    const layers = await LayerStore.open(cluster.connection, 1);
    const second = startApi({
      scheduler: cluster.scheduler,
      connection: cluster.connection,
      layers,
      logger: silent,
      listen: [{ kind: "unix", path }],
      dataDir: join(cluster.folder, "second"),
      maxImageBytes: 2 ** 30,
      version: "",
    });
    await expect(second).rejects.toMatchObject({
      code: "invalid",
      message: expect.stringContaining("another process listens"),
    });
  });

  test("health and reflection answer", async () => {
    const Health = makeClientConstructor(healthDefinition, "grpc.health.v1.Health");
    const health = new Health(cluster.tcpAddress, credentials.createInsecure()) as unknown as Client & {
      check: (
        request: object,
        done: (error: ServiceError | null, answer: { status: string }) => void,
      ) => void;
    };
    const check = (): Promise<{ status: string }> =>
      ask((done) => health.check({ service: "godwit.v1.Godwit" }, done));
    expect((await check()).status).toBe("SERVING");
    cluster.api.setServing(false);
    expect((await check()).status).toBe("NOT_SERVING");
    cluster.api.setServing(true);
    health.close();
    const raw = new Client(cluster.unixAddress, credentials.createInsecure());
    const identity = (bytes: Buffer): Buffer => bytes;
    const call = raw.makeBidiStreamRequest(
      "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
      identity,
      identity,
    );
    call.write(Buffer.from([0x3a, 0x00])); // list_services: ""
    call.end();
    const answers: Buffer[] = [];
    for await (const answer of call) answers.push(answer as Buffer);
    expect(Buffer.concat(answers).toString("latin1")).toContain("godwit.v1.Godwit");
    raw.close();
  });

  test("garbage does no harm", async () => {
    for (const garbage of [
      randomBytes(5_000),
      Buffer.from("GET / HTTP/1.1\r\n\r\n"),
      Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), randomBytes(3_000)]),
    ]) {
      const socket = connectSocket(join(cluster.folder, "run", "api.sock"));
      const closed = Promise.withResolvers<void>();
      socket.on("error", () => undefined).on("close", () => closed.resolve());
      socket.write(garbage);
      socket.resume();
      setTimeout(() => socket.destroy(), 200);
      await closed.promise;
    }
    const raw = new Client(cluster.unixAddress, credentials.createInsecure());
    const identity = (bytes: Buffer): Buffer => bytes;
    const send = (method: string, bytes: Buffer): Promise<Buffer> =>
      ask((done) =>
        raw.makeUnaryRequest(
          `/godwit.v1.Godwit/${method}`,
          identity,
          identity,
          bytes,
          new Metadata(),
          done as never,
        ),
      );
    await expect(send("Run", Buffer.from([0xff, 0xff, 0xff]))).rejects.toMatchObject({
      code: status.INTERNAL,
    });
    await expect(send("Run", Buffer.alloc(5 * 2 ** 20))).rejects.toMatchObject({
      code: status.RESOURCE_EXHAUSTED,
    });
    await expect(send("Nothing", Buffer.alloc(0))).rejects.toMatchObject({ code: status.UNIMPLEMENTED });
    await expect(send("Run", Buffer.alloc(0))).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: "the request has no spec",
    });
    raw.close();
    expect((await ask<ClusterStatus>((done) => cluster.client.status({}, done))).version).toBe("1.2.3");
  });
});

describe("containers", () => {
  test("run, list, inspect by prefix, stop, start, remove", async () => {
    const info = await cluster.run("web-1", "n1");
    expect(info).toMatchObject({
      state: "running",
      node: "n1",
      epoch: 1,
      desired: "running",
      spec: { name: "web-1", image: "base" },
    });
    await cluster.run("web-2", "n2");
    await expect(
      ask((done) => cluster.client.inspectContainer({ nameOrId: "web" }, done)),
    ).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: expect.stringContaining("web-1"),
    });
    expect(
      (
        await ask<ContainerInfo>((done) =>
          cluster.client.inspectContainer({ nameOrId: info.id.slice(0, 10) }, done),
        )
      ).spec?.name,
    ).toBe("web-1");
    await expect(
      ask((done) => cluster.client.inspectContainer({ nameOrId: "nope" }, done)),
    ).rejects.toMatchObject({
      code: status.NOT_FOUND,
    });
    const { containers } = await ask<ListContainersResponse>((done) =>
      cluster.client.listContainers({ node: "n2" }, done),
    );
    expect(containers.map((container) => container.spec?.name)).toEqual(["web-2"]);
    await expect(
      ask((done) =>
        cluster.client.run({ spec: ContainerSpec.fromPartial({ name: "web-1", image: "base" }) }, done),
      ),
    ).rejects.toMatchObject({ code: status.ALREADY_EXISTS });
    await expect(
      ask((done) => cluster.client.removeContainer({ nameOrId: "web-1", force: false }, done)),
    ).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
    await ask((done) => cluster.client.setDesired({ nameOrId: "web-1", action: "stop" }, done));
    for await (const seen of messages(cluster.client.watchContainer({ nameOrId: "web-1" })))
      if (seen.state === "stopped") break;
    await expect(
      ask((done) => cluster.client.setDesired({ nameOrId: "web-1", action: "dance" }, done)),
    ).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await ask((done) => cluster.client.setDesired({ nameOrId: "web-1", action: "start" }, done));
    for await (const seen of messages(cluster.client.watchContainer({ nameOrId: "web-1" })))
      if (seen.state === "running") break;
    const watching = cluster.client.watchContainer({ nameOrId: "web-1" });
    const states: string[] = [];
    const watched = (async () => {
      for await (const seen of messages(watching)) states.push(seen.state);
    })();
    await cluster.remove("web-1");
    await watched; // ends by itself
    expect(states[0]).toBe("running");
    await cluster.remove("web-2");
  });

  test("move, its dry run, refusals, and drain", async () => {
    await cluster.run("mover", "n1");
    const order = {
      nameOrId: "mover",
      node: "n2",
      mode: MigrationMode.AUTO,
      blackoutBudgetMs: 0,
      bandwidthBytesPerSecond: 0,
    };
    const planned = await ask<MigrationInfo>((done) => cluster.client.move({ ...order, dryRun: true }, done));
    expect(planned).toMatchObject({ state: "planned", container: "mover", from: "n1", to: "n2", id: "" });
    const started = await ask<MigrationInfo>((done) =>
      cluster.client.move({ ...order, dryRun: false }, done),
    );
    const seen: MigrationInfo[] = [];
    for await (const info of messages(cluster.client.watchMigration({ id: started.id }))) seen.push(info);
    expect(seen.at(-1)).toMatchObject({ state: "finished", figures: { blackoutMs: 120, sentBytes: 4096 } });
    await expect(ask((done) => cluster.client.move({ ...order, dryRun: false }, done))).rejects.toMatchObject(
      {
        code: status.FAILED_PRECONDITION,
        details: expect.stringContaining("n2"),
      },
    );
    const { migrations } = await ask<ListMigrationsResponse>((done) =>
      cluster.client.listMigrations({ id: "", container: "mover", limit: 0 }, done),
    );
    expect(migrations.map((migration) => migration.id)).toEqual([started.id]);

    const drain = (node: string, dryRun: boolean): Promise<DrainStatus[]> =>
      Array.fromAsync(
        messages(
          cluster.client.drain({
            node,
            deadlineSeconds: 0,
            parallel: 0,
            dryRun,
            force: false,
          }),
        ),
      );
    expect(await drain("n2", true)).toMatchObject([
      { state: "planned", remaining: [{ container: "mover", to: "n1" }] },
    ]);
    expect((await drain("n2", false)).at(-1)).toMatchObject({
      state: "drained",
      moved: [{ container: "mover", to: "n1" }],
      failed: [],
      remaining: [],
    });
    const { nodes } = await ask<ListNodesResponse>((done) => cluster.client.listNodes({}, done));
    expect(nodes.map(({ name, state, schedulable }) => ({ name, state, schedulable }))).toEqual([
      { name: "n1", state: "ready", schedulable: true },
      { name: "n2", state: "drained", schedulable: false },
    ]);
    expect(
      await ask((done) => cluster.client.setSchedulable({ node: "n2", schedulable: true }, done)),
    ).toMatchObject({ state: "ready" });
    const events = await Array.fromAsync(messages(cluster.client.events({ follow: false, sinceMs: 0 })));
    expect(events.some((event) => event.kind === "migration.switched" && event.subject === "mover")).toBe(
      true,
    );
    await cluster.remove("mover");
  });

  test("a request that is sent again under its id is done once", async () => {
    const under = (id: string): Metadata => {
      const metadata = new Metadata();
      metadata.set("godwit-request", id);
      return metadata;
    };
    const twice = async <R>(send: () => Promise<R>): Promise<R> => {
      await send();
      return send();
    };
    await cluster.run("kept", "n1");
    const checkpointId = "00000000000000c1";
    const create = (): Promise<CheckpointInfo> =>
      ask((done) => cluster.client.createCheckpoint({ container: "kept" }, under(checkpointId), done));
    expect(await twice(create)).toMatchObject({ id: checkpointId, container: "kept" });
    const { checkpoints } = await ask<ListCheckpointsResponse>((done) =>
      cluster.client.listCheckpoints({ container: "kept" }, done),
    );
    expect(checkpoints).toHaveLength(1);

    const template = ContainerSpec.fromPartial({ image: "base", restart: RestartPolicy.ALWAYS });
    const services = [
      { spec: ServiceSpec.fromPartial({ name: "db", replicas: 1, template }), expectedVersion: 0 },
    ];
    const apply = (id: string): Promise<unknown> =>
      ask((done) => cluster.client.applyServices({ services, dryRun: false }, under(id), done));
    await twice(() => apply("00000000000000c2"));
    // Another one was made for a cluster without the service.
    await expect(apply("00000000000000c3")).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
    const scaled = await twice(() =>
      ask<ServiceInfo>((done) =>
        cluster.client.scaleService({ name: "db", replicas: 2 }, under("00000000000000c4"), done),
      ),
    );
    expect(scaled).toMatchObject({ version: 2, spec: { replicas: 2 } });
    await ask((done) => cluster.client.removeService({ name: "db" }, under("00000000000000c5"), done));
    await cluster.eventually("db to be gone", () => cluster.scheduler.state().services["db"] === undefined);
    await ask((done) => cluster.client.removeCheckpoint({ id: checkpointId }, done));
    await cluster.remove("kept");
  });
});
