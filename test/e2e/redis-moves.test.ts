import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import { type MoveRow, REDIS_COMMAND, redisClientArgv, TestCluster } from "./cluster.ts";

describe("redis under constant load", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("is moved ten times in a row: one TCP connection, no wrong, repeated or lost answer", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "512m", "cache", "redis", "--", ...REDIS_COMMAND);
    const { address, id } = await cluster.container("cache");
    await using client = new RedisClient(redisClientArgv(cluster, "n3", address));
    await client.fill(100);
    const felt: number[] = [];
    for (let round = 0; round < 10; round += 1) {
      await client.mark();
      const target = `n${((round + 1) % 3) + 1}`;
      const move = await cluster.json<MoveRow>("move", "cache", target);
      expect(move).toMatchObject({ state: "finished", to: target, mode: "precopy" });
      expect(move.memoryBytes).toBeGreaterThan(100 * 1024 * 1024);
      const window = await client.mark();
      expect(window).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
      expect(window.requests).toBeGreaterThan(0);
      felt.push(Math.round(window.longestMs));
      expect(cluster.runningOn(id)).toEqual([target]);
      expect(await cluster.container("cache")).toMatchObject({ node: target, address, restarts: 0 });
    }
    expect(await client.wrongKeys()).toBe(0);
    process.stdout.write(`blackouts that the client felt, in ms: ${felt.join(", ")}\n`);
    for (const node of ["n1", "n3"]) expect(cluster.isKnownOn(node, id)).toBe(false);
    await cluster.must("rm", "-f", "cache");
  });
});
