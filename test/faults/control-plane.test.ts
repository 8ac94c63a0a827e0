import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import {
  type ContainerRow,
  type MoveRow,
  REDIS_COMMAND,
  redisClientArgv,
  TestCluster,
  until,
} from "../e2e/cluster.ts";

describe("the control plane is killed and started again", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(2);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const ready = (): Promise<boolean> =>
    until("both nodes to be ready", async () => {
      const nodes = await cluster.json<{ state: string }[]>("node", "ls");
      return nodes.length === 2 && nodes.every((node) => node.state === "ready");
    });

  test("nothing is forgotten and no container notices", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "256m", "cache", "redis", "--", ...REDIS_COMMAND);
    await cluster.must(
      "run",
      "--label",
      "tier=web",
      "--memory",
      "64m",
      "idle",
      "redis",
      "--",
      "sleep",
      "100000",
    );
    await cluster.must("node", "cordon", "n2");
    const before = await cluster.json<ContainerRow[]>("ps");
    await using client = new RedisClient(
      redisClientArgv(cluster, "n2", before.find((row) => row.name === "cache")?.address ?? ""),
    );
    await client.fill(20);
    await client.mark();

    await cluster.dev.killApi();
    await cluster.dev.killNats();
    await cluster.dev.startNats();
    await cluster.dev.startApi();
    await ready();
    expect(await cluster.json<ContainerRow[]>("ps")).toEqual(before);
    const nodes = await cluster.json<{ name: string; schedulable: boolean }[]>("node", "ls");
    expect(nodes.find((node) => node.name === "n2")?.schedulable).toBe(false);
    expect((await cluster.json<{ name: string }[]>("image", "ls")).map((image) => image.name)).toEqual([
      "redis",
    ]);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });

    await cluster.must("node", "uncordon", "n2");
    expect(await cluster.json<MoveRow>("move", "cache", "n2")).toMatchObject({ state: "finished" });
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
  });

  test("NATS goes away in the middle of a move and comes back: it ends one way or the other, nothing is lost", async () => {
    const { node, address, id } = await cluster.container("cache");
    const target = node === "n1" ? "n2" : "n1";
    await using client = new RedisClient(redisClientArgv(cluster, node, address));
    await client.fill(150);
    await client.mark();
    const { id: migration } = await cluster.startMove("cache", target);
    await cluster.watchMigration(migration, (info) => info.phase === "receiving" || info.phase === "frozen");
    await cluster.dev.killNats();
    await cluster.dev.startNats();
    await ready();
    const ended = await until(
      "the migration to end",
      async () => {
        const all = await cluster.json<MoveRow[]>("migrations");
        const row = all.find((candidate) => candidate.id === migration);
        return row !== undefined && ["finished", "aborted"].includes(row.state) ? row : undefined;
      },
      120_000,
    );
    const home = ended.state === "finished" ? target : node;
    await until(`exactly one running copy, on ${home}`, () => cluster.runningOn(id).join() === home);
    await until("answers", async () => (await client.mark()).requests > 0);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
    expect(await client.wrongKeys()).toBe(0);
  });

  test("a shim is killed and another takes its place: no line is lost, the container still moves, its exit is told", async () => {
    // 4 KiB a line: what a pipe holds would be full, and the writer standing, after 16 of them.
    const script = 'line=$(printf %04000d 0); i=0; while :; do i=$((i+1)); echo "$i $line"; sleep 0.05; done';
    // SIGTERM does not end a shell that is a first process, and its grace would only be waited for.
    await cluster.must(
      ...["run", "--node", "n1", "--restart", "never", "--stop-signal", "KILL"],
      ...["writer", "redis", "--", "sh", "-c", script],
    );
    const numbers = async (): Promise<number[]> => {
      const log = await cluster.must("logs", "writer");
      return log
        .trim()
        .split("\n")
        .map((line) => Number.parseInt(line, 10));
    };
    await until("lines", async () => (await numbers()).length > 5);
    await cluster.dev.killShim("n1");
    await cluster.dev.startShim("n1");
    const before = (await numbers()).length;
    await until("lines after the death", async () => (await numbers()).length > before + 40);
    expect(await cluster.json<MoveRow>("move", "writer", "n2")).toMatchObject({ state: "finished" });
    const moved = (await numbers()).length;
    await until("lines after the move", async () => (await numbers()).length > moved + 10);
    const all = await numbers();
    expect(all).toEqual(all.map((_, index) => index + 1));

    await cluster.dev.killShim("n2");
    await cluster.dev.startShim("n2");
    await cluster.must("stop", "writer");
    expect(await cluster.container("writer")).toMatchObject({ state: "stopped" });
    await cluster.must("rm", "writer");
  });
});
