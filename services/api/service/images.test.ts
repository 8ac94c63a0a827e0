/** Images over the API, in the real image store. */
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ContainerInfo, ImageInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { ContainerSpec, ImageConfig } from "../../../proto/gen/godwit/v1/spec.ts";
import { jetstream } from "@nats-io/jetstream";
import { Objm } from "@nats-io/obj";
import { IMAGE_STORE } from "../../../proto/contract/subjects.ts";
import { LayerStore } from "../image/layer-store.ts";
import { NatsServer } from "../../../scheduler/testing/nats-server.ts";
import { SimulatedAgent } from "../../../scheduler/testing/simulated-agent.ts";
import { ociLayout, sha256, tarOf } from "../image/testing/archives.ts";
import { ApiCluster, ask } from "../testing/api-cluster.ts";

let cluster: ApiCluster;
let base: Buffer;
beforeAll(async () => {
  cluster = await ApiCluster.start(
    () => NatsServer.start(),
    (url, name) => SimulatedAgent.start(url, name),
  );
  base = await tarOf([{ name: "bin/app", content: "app" }]);
  await cluster.importTar("base", base);
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

describe("images", () => {
  test("layers are shared, kept while needed and deleted when not", async () => {
    const shared = await tarOf([{ name: "shared", content: randomBytes(700_000) }]);
    const layer = (tar: Buffer) => ({ tar, blob: gzipSync(tar) });
    const [a, b] = [layer(shared), layer(await tarOf([{ name: "b", content: "b" }]))];
    const before = await cluster.storedLayers();
    const first = await cluster.importTar("first", await ociLayout([a]));
    expect(first).toMatchObject({ name: "first", layers: 1, sizeBytes: shared.length, usedBy: 0 });
    await cluster.importTar("second", await ociLayout([a, b]));
    expect(await cluster.storedLayers()).toBe(before + 2);
    await ask((done) => cluster.client.removeImage({ name: "first" }, done));
    expect(await cluster.storedLayers()).toBe(before + 2);
    // Its name is taken over by other content; nobody used the old.
    await cluster.importTar("second", await ociLayout([b]));
    expect(await cluster.storedLayers()).toBe(before + 1);
    await ask((done) => cluster.client.removeImage({ name: "second" }, done));
    expect(await cluster.storedLayers()).toBe(before);
    await expect(ask((done) => cluster.client.removeImage({ name: "second" }, done))).rejects.toMatchObject({
      code: status.NOT_FOUND,
    });
  });

  test("an image that a container uses stays, also when its name is taken over", async () => {
    const before = await cluster.storedLayers();
    await cluster.importTar("used", await tarOf([{ name: "v", content: "1" }]));
    const spec = ContainerSpec.fromPartial({ name: "user", image: "used" });
    await ask<ContainerInfo>((done) => cluster.client.run({ spec }, done));
    await expect(ask((done) => cluster.client.removeImage({ name: "used" }, done))).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringContaining("user"),
    });
    await cluster.importTar("used", await tarOf([{ name: "v", content: "2" }]));
    expect(await cluster.storedLayers()).toBe(before + 2);
    await cluster.remove("user");
    await cluster.eventually(
      "the replaced layer to be deleted",
      async () => (await cluster.storedLayers()) === before + 1,
    );
    await ask((done) => cluster.client.removeImage({ name: "used" }, done));
  });

  test("a client that vanishes half-way leaves no image, no layer and no file", async () => {
    const before = await cluster.storedLayers();
    const half = (await tarOf([{ name: "big", content: randomBytes(400_000) }])).subarray(0, 200_000);
    const ended = ask<ImageInfo>((done) => {
      const call = cluster.client.importImage(done);
      call.write({
        part: {
          $case: "header",
          value: { name: "half", format: "auto", config: ImageConfig.fromPartial({}) },
        },
      });
      call.write({ part: { $case: "data", value: half } }, () => call.cancel());
    });
    await expect(ended).rejects.toMatchObject({ code: status.CANCELLED });
    await cluster.eventually(
      "the spool to be empty",
      async () => (await readdir(join(cluster.folder, "import"))).length === 0,
    );
    expect(Object.keys(cluster.scheduler.state().images)).not.toContain("half");
    expect(await cluster.storedLayers()).toBe(before);
    await expect(cluster.importTar("bad", half)).rejects.toMatchObject({
      code: status.DATA_LOSS,
      details: expect.stringContaining("cut short"),
    });
  });

  test("pieces of an upload that a crash cut off are found and deleted, whole layers are not", async () => {
    const store = await LayerStore.open(cluster.connection, 1);
    const before = await cluster.storedLayers();
    await jetstream(cluster.connection).publish(`$O.${IMAGE_STORE}.C.HALFWAY`, Buffer.alloc(1000));
    expect(await store.deleteFragments(Date.now() - 60_000)).toBe(0);
    expect(await store.deleteFragments(Date.now() + 60_000)).toBe(1);
    expect(await store.deleteFragments(Date.now() + 60_000)).toBe(0);
    expect(await cluster.storedLayers()).toBe(before);
    expect(
      await new Objm(cluster.connection)
        .open(IMAGE_STORE)
        .then((objects) => objects.getBlob(`layer/${sha256(base)}`)),
    ).not.toBeNull();
  });
});
