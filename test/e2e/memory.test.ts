import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import { type MoveRow, REDIS_COMMAND, redisClientArgv, TestCluster } from "./cluster.ts";

const LIMIT_BYTES = 200 * 1024 * 1024;

describe("an agent that moves 1 GB", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(2);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("stays under 200 MB on both sides", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "2g", "big", "redis", "--", ...REDIS_COMMAND);
    const { address } = await cluster.container("big");
    await using client = new RedisClient(redisClientArgv(cluster, "n2", address));
    await client.fill(1024);
    await client.mark();
    const pids = await Promise.all(["n1", "n2"].map((node) => cluster.dev.node(node).agentPid()));
    let highest = 0;
    let moving = true;
    const watching = (async () => {
      while (moving) {
        for (const pid of pids) highest = Math.max(highest, residentBytes(pid));
        await delay(20);
      }
    })();
    const move = await cluster.json<MoveRow>("move", "big", "n2");
    moving = false;
    await watching;
    expect(move.state).toBe("finished");
    expect(move.memoryBytes).toBeGreaterThan(1024 * 1024 * 1024);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0 });
    process.stdout.write(
      `highest resident memory of an agent: ${(highest / 1048576).toFixed(0)} MiB, blackout ${move.blackoutMs.toFixed(0)} ms\n`,
    );
    expect(highest).toBeLessThan(LIMIT_BYTES);
  });
});

/** Anonymous and mapped memory of a process, from the kernel. */
function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
}
