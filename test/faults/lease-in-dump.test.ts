/** A source whose lease ends while CRIU stops its container's processes one by one. */
import { readFileSync } from "node:fs";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type MoveRow, REDIS_COMMAND, TestCluster, until } from "../e2e/cluster.ts";
import { signal } from "./faults.ts";
import { LEASE_MS } from "./laboratory.ts";
import { cutOffScheduler } from "./partition.ts";

const TRIES = 6;

describe("the lease of a source ends in the middle of a dump", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(2, { leaseMs: LEASE_MS });
    await cluster.must("run", "--node", "n1", "--memory", "256m", "cache", "redis", "--", ...REDIS_COMMAND);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("the move is called off, and the container goes on", async () => {
    const { id } = await cluster.container("cache");
    const { source, criu } = await untilDumping(id);
    signal(criu, "SIGSTOP");
    try {
      {
        await using _ = await cutOffScheduler(cluster, source);
        await until("the lease to end", async () => {
          const nodes = await cluster.nodes();
          return nodes.find(({ name }) => name === source)?.state === "lost";
        });
      }
      await until("the host to be back", async () =>
        (await cluster.nodes()).every(({ state }) => state === "ready"),
      );
    } finally {
      signal(criu, "SIGCONT");
    }
    await until("the container to go on", () => cluster.runningOn(id).join() === source);
    expect((await cluster.must("exec", "cache", "--", "redis-cli", "ping")).trim()).toBe("PONG");
    expect(await cluster.container("cache")).toMatchObject({ node: source, state: "running", restarts: 0 });
    const other = source === "n1" ? "n2" : "n1";
    expect(await cluster.json<MoveRow>("move", "cache", other)).toMatchObject({ state: "finished" });
  });

  /** A move is on its way; CRIU holds the first process, and has let the frozen cgroup go on meanwhile. */
  async function untilDumping(id: string): Promise<{ source: string; criu: number }> {
    for (let tries = 0; tries < TRIES; tries += 1) {
      const { node: source } = await cluster.container("cache");
      const [first = 0] = cluster.processesOn(source, id);
      const migration = await cluster.startMove("cache", source === "n1" ? "n2" : "n1");
      let isOver = false;
      void cluster.watchMigration(migration.id, () => false).then(() => (isOver = true));
      while (!isOver) {
        const criu = dumperOf(first);
        if (criu !== 0 && cluster.runningOn(id).includes(source)) return { source, criu };
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    throw new Error(`of ${TRIES} moves none was caught in its dump`);
  }
});

/** The CRIU that traces a process; 0: none does. */
function dumperOf(pid: number): number {
  try {
    const tracer = Number(
      /^TracerPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0,
    );
    return tracer > 0 && readFileSync(`/proc/${tracer}/comm`, "utf8").trim() === "criu" ? tracer : 0;
  } catch {
    return 0; // it has ended
  }
}
