import { readdirSync, readFileSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import { type MoveRow, REDIS_COMMAND, redisClientArgv, TestCluster, until } from "./cluster.ts";

const LIMIT_BYTES = 200 * 1024 * 1024;

/** Of the container's memory: what its host may need in all while it arrives. */
const MOST_TIMES = 1.2;

describe("an agent that moves 1 GB", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(2);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("stays under 200 MB on both sides, and gives the image back as it is used", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "2g", "big", "redis", "--", ...REDIS_COMMAND);
    const { address, id } = await cluster.container("big");
    await using client = new RedisClient(redisClientArgv(cluster, "n2", address));
    await client.fill(1024);
    await client.mark();
    const pids = await Promise.all(["n1", "n2"].map((node) => cluster.dev.node(node).agentPid()));
    let highest = 0;
    let most = 0;
    let moving = true;
    const watching = (async () => {
      while (moving) {
        for (const pid of pids) highest = Math.max(highest, residentBytes(pid));
        most = Math.max(
          most,
          imageBytes(cluster, "n2", id, pids[1] ?? 0) + containerBytes(cluster, "n2", id),
        );
        await delay(10);
      }
    })();
    const move = await cluster.json<MoveRow>("move", "big", "n2");
    await until("its memory to be all in place", () => imageBytes(cluster, "n2", id, pids[1] ?? 0) === 0);
    moving = false;
    await watching;
    expect(move.state).toBe("finished");
    expect(move.memoryBytes).toBeGreaterThan(1024 * 1024 * 1024);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0 });
    process.stdout.write(
      `highest resident memory of an agent: ${(highest / 1048576).toFixed(0)} MiB, of container and image: ${(most / 1048576).toFixed(0)} MiB, blackout ${move.blackoutMs.toFixed(0)} ms\n`,
    );
    expect(highest).toBeLessThan(LIMIT_BYTES);
    expect(most).toBeGreaterThan(move.memoryBytes);
    expect(most).toBeLessThan(move.memoryBytes * MOST_TIMES);
  });
});

/** Anonymous and mapped memory of a process, from the kernel. */
function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
}

/** What the image of a container that arrives takes on its tmpfs, which only the agent sees. */
function imageBytes(cluster: TestCluster, node: string, id: string, agentPid: number): number {
  const folder = `/proc/${agentPid}/root${cluster.dev.node(node).stateDir}/containers/${id}/images`;
  return bytesBelow(folder);
}

/** Links to folders, which an image's rounds have, are not followed. */
function bytesBelow(folder: string): number {
  try {
    return readdirSync(folder, { withFileTypes: true }).reduce((sum, entry) => {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) return sum + bytesBelow(path);
      return entry.isFile() ? sum + statSync(path).blocks * 512 : sum;
    }, 0);
  } catch {
    return 0; // not here yet, or taken away meanwhile
  }
}

/** Memory that the kernel counts as the container's: its own, not files'. */
function containerBytes(cluster: TestCluster, node: string, id: string): number {
  for (const folder of cluster.dev.node(node).cgroupDirs) {
    try {
      const stat = readFileSync(`${folder}/godwit/${id}/memory.stat`, "utf8");
      return Number(/^(?:rss|anon) (\d+)$/m.exec(stat)?.[1] ?? 0);
    } catch {
      // Another controller's hierarchy, or the container is not here.
    }
  }
  return 0;
}
