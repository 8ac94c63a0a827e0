/** Services as their users see them: applied, updated under a client, rolled back by themselves, moved, removed. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { ContainerInfo, ServiceInfo } from "../../proto/gen/godwit/v1/api.ts";
import { LineProcess } from "../bench/line-process.ts";
import { CLI } from "./cluster-user.ts";
import { type ContainerRow, TestCluster, until } from "./cluster.ts";

const manifest = (mode: string, port = 6379): string => `
name: web
replicas: 3
update: {batch: 1, monitor: 500ms, timeout: 40s, onFailure: rollback}
disruption: {maxUnavailable: 1}
container:
  image: redis
  command: [redis-server, --bind, 0.0.0.0, --protected-mode, "no", --save, ""]
  env: {MODE: ${mode}}
  health: {tcp: ${port}, interval: 500ms, timeout: 5s, retries: 2}
  stopGrace: 3s
`;

interface ServiceDetail {
  readonly state: string;
  readonly revision: number;
  readonly available: number;
  readonly message: string | null;
  readonly containers: readonly (ContainerRow & { readonly revision: number; readonly health: string })[];
}

/** Follows the service until it is disposed: its addresses, and how few were ever available. */
class Follower implements Disposable {
  readonly #call: ReturnType<TestCluster["api"]["watchService"]>;
  addresses: readonly string[] = [];
  fewest = Infinity;

  constructor(cluster: TestCluster) {
    this.#call = cluster.api.watchService({ name: "web" });
    this.#call.on("data", (info: ServiceInfo) => {
      this.fewest = Math.min(this.fewest, info.available);
      this.addresses = info.containers.filter(serves).map(({ address }) => address);
    });
    this.#call.on("error", () => undefined);
  }
  [Symbol.dispose](): void {
    this.#call.cancel();
  }
}
const serves = ({ desired, health, state }: ContainerInfo): boolean =>
  desired === "running" && health === "healthy" && (state === "running" || state === "migrating");

describe("a service", () => {
  let cluster: TestCluster;
  let client: LineProcess;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    client = new LineProcess("the client of the service", [
      ...[process.execPath, CLI, "dev", "exec", "--data", cluster.dev.dataDir, "n1", "--"],
      ...[process.execPath, fileURLToPath(new URL("service-client.ts", import.meta.url))],
    ]);
  });
  afterAll(async () => {
    await client.end("");
    await cluster[Symbol.asyncDispose]();
  });

  const file = (text: string): string => {
    const path = join(cluster.dev.dataDir, "web.yaml");
    writeFileSync(path, text);
    return path;
  };
  const detail = async (): Promise<ServiceDetail> =>
    await cluster.json<ServiceDetail>("service", "inspect", "web");

  /** Asks the service on and on while something is done to it. */
  const underLoad = async <T>(
    work: Promise<T>,
  ): Promise<{ result: T; requests: number; unserved: number; fewest: number }> => {
    using follower = new Follower(cluster);
    await until("the service's addresses", () => follower.addresses.length > 0);
    let isOver = false;
    const ended = work.finally(() => (isOver = true));
    ended.catch(() => undefined);
    let requests = 0;
    let unserved = 0;
    while (!isOver) {
      const { by } = (await client.ask(follower.addresses.join(" "))) as { by: string | null };
      requests += 1;
      if (by === null) unserved += 1;
    }
    return { result: await ended, requests, unserved, fewest: follower.fewest };
  };

  test("from its file to its end", async () => {
    const first = file(manifest("one"));
    expect(await cluster.cli(["diff", first])).toMatchObject({
      code: 4,
      stdout: expect.stringContaining("+ web: new"),
    });
    expect(await cluster.must("apply", first)).toContain("web is steady at revision 1: 3 of 3 available");
    expect(await cluster.cli(["diff", first])).toMatchObject({ code: 0, stdout: "= web: no change\n" });

    // A new revision takes the place of the first, and nobody who asks goes without an answer.
    const second = file(manifest("two"));
    const updated = await underLoad(cluster.cli(["apply", second]));
    expect(updated.result).toMatchObject({ code: 0, stderr: "" });
    expect(updated).toMatchObject({ unserved: 0, fewest: 2 });
    expect(updated.requests).toBeGreaterThan(20);
    const [moved, ...others] = (await detail()).containers;
    expect(await cluster.sh(moved?.name ?? "", "echo $MODE")).toBe("two\n");

    // A move is no disruption, and its health goes with it.
    const target = ["n1", "n2", "n3"].find((node) => node !== moved?.node) ?? "";
    const shifted = await underLoad(cluster.cli(["move", moved?.name ?? "", target]));
    expect(shifted.result.code).toBe(0);
    expect(shifted).toMatchObject({ unserved: 0, fewest: 3 });
    expect(await cluster.info(moved?.name ?? "")).toMatchObject({
      node: target,
      health: "healthy",
      restarts: 0,
    });

    // One whose health fails is taken back, and those that it had not reached are the same ones as before.
    const third = file(manifest("three", 1));
    const failed = await underLoad(cluster.cli(["apply", third]));
    expect(failed.result).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /web is rolled-back: revision 3: web-\d is unhealthy: nothing answers on port 1/,
      ),
    });
    expect(failed).toMatchObject({ unserved: 0, fewest: 2 });
    const after = await detail();
    expect(after).toMatchObject({ state: "rolled-back", revision: 2, available: 3 });
    const kept = [moved, ...others].filter((one) => after.containers.some(({ id }) => id === one?.id));
    expect(kept).toHaveLength(2);

    // One that is ill is started again, by its policy.
    const [sick] = after.containers;
    await cluster.sh(sick?.name ?? "", "redis-cli config set port 0 || true");
    await until("the ill one to be restarted and well", async () => {
      const { health, restarts, state } = await cluster.info(sick?.name ?? "");
      return restarts === 1 && state === "running" && health === "healthy";
    });

    expect(await cluster.must("service", "scale", "web", "1")).toContain("1 of 1 available");
    const left = (await detail()).containers;
    expect(left).toHaveLength(1);
    await cluster.must("service", "rm", "web");
    expect(await cluster.json("ps")).toEqual([]);
    expect(await cluster.json("service", "ls")).toEqual([]);
    for (const { id } of [...after.containers, ...left])
      for (const node of ["n1", "n2", "n3"]) expect(cluster.isKnownOn(node, id)).toBe(false);
  });
});
