import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import { REDIS_COMMAND, redisClientArgv, TestCluster, until } from "../e2e/cluster.ts";

/** Phases of a migration as the API names them, in the order in which they come. */
const SOURCE_PHASES = ["copying", "frozen", "dumped"];
const TARGET_PHASES = ["preparing", "ready", "receiving"];

describe("an agent that is killed during a move", () => {
  let cluster: TestCluster;
  let client: RedisClient;
  let id: string;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    await cluster.must("run", "--node", "n1", "--memory", "512m", "cache", "redis", "--", ...REDIS_COMMAND);
    const row = await cluster.container("cache");
    id = row.id;
    client = new RedisClient(redisClientArgv(cluster, "n3", row.address));
    await client.fill(150);
    await client.mark();
  });
  afterEach(async () => {
    // A test that failed may have left the scheduler standing.
    for (const { name, pid } of cluster.dev.processes()) if (name === "api") process.kill(pid, "SIGCONT");
    await client[Symbol.asyncDispose]();
    await cluster.must("rm", "-f", "cache");
  });

  /** Kills the agent of `node` as soon as the migration has come to `phase`. */
  async function killAt(node: string, phase: string): Promise<void> {
    const pid = await cluster.dev.node(node).agentPid();
    const { id: migration } = await cluster.startMove("cache", "n2");
    await cluster.watchMigration(migration, (info) => info.phase === phase);
    process.kill(pid, "SIGKILL");
    await goesOn(migration);
  }

  /** However the move ends, exactly one copy runs, with every key and with its connection. */
  async function goesOn(migration: string): Promise<void> {
    const ended = await cluster.watchMigration(migration, () => false);
    expect(["aborted", "finished"]).toContain(ended.state);
    const home = ended.state === "aborted" ? "n1" : "n2";
    await until(`exactly one running copy, on ${home}`, () => cluster.runningOn(id).join() === home);
    await until("the client to get answers again", async () => (await client.mark()).requests > 0);
    // Another look after everything has settled: nobody else came to life, the connection is the first one.
    await until("ps to say so", async () => (await cluster.container("cache")).state === "running");
    const other = home === "n1" ? "n2" : "n1";
    await until(`nothing left on ${other}`, () => !cluster.isKnownOn(other, id));
    expect(cluster.runningOn(id)).toEqual([home]);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
    expect(await client.wrongKeys()).toBe(0);
    expect(await cluster.container("cache")).toMatchObject({ node: home, restarts: 0 });
  }

  test.each(TARGET_PHASES)("target's, at %s: the container goes on with its connections", async (phase) => {
    await killAt("n2", phase);
  });

  test.each(SOURCE_PHASES)(
    "source's, at %s: exactly one copy goes on with its connections",
    async (phase) => {
      await killAt("n1", phase);
    },
  );

  /** Stops the scheduler while the target restores, so that the restored container waits there for the switch. */
  async function holdRestored(): Promise<{ migration: string; api: number }> {
    const { id: migration } = await cluster.startMove("cache", "n2");
    await cluster.watchMigration(migration, (info) => info.phase === "receiving");
    const api = cluster.dev.processes().find((one) => one.name === "api")?.pid ?? 0;
    process.kill(api, "SIGSTOP");
    try {
      await until("redis to be restored on n2", () =>
        cluster
          .processesOn("n2", id)
          .some((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "redis-server"),
      );
      expect(cluster.runningOn(id)).not.toContain("n1");
    } catch (error) {
      process.kill(api, "SIGCONT");
      throw error;
    }
    return { migration, api };
  }

  test("the scheduler stands still between the restore and the switch: both sides wait, and go on when it does", async () => {
    const { migration, api } = await holdRestored();
    await client.mark();
    await delay(2_000);
    expect((await client.mark()).requests).toBeLessThan(2);
    process.kill(api, "SIGCONT");
    await goesOn(migration);
    expect(await cluster.container("cache")).toMatchObject({ node: "n2" });
  });

  test.each(["n1", "n2"])("%s's, between the restore and the switch", async (node) => {
    const { migration, api } = await holdRestored();
    const pid = await cluster.dev.node(node).agentPid();
    process.kill(pid, "SIGKILL");
    await until("another agent", async () => (await cluster.dev.node(node).agentPid()) !== pid);
    process.kill(api, "SIGCONT");
    await goesOn(migration);
  });

  test("one that is killed and starts again while nothing moves: the container never notices", async () => {
    const pid = await cluster.dev.node("n1").agentPid();
    process.kill(pid, "SIGKILL");
    await until("another agent", async () => (await cluster.dev.node("n1").agentPid()) !== pid);
    await until(
      "it to know the container",
      async () => (await cluster.container("cache")).state === "running",
    );
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
    const answer = await until("exec to work", () => cluster.sh("cache", "echo still here"));
    expect(answer).toBe("still here\n");
  });
});
