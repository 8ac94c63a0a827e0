import { setTimeout as delay } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { RedisClient } from "../demo/client-process.ts";
import { vanish } from "../faults/host-faults.ts";
import { leftovers } from "../faults/host-view.ts";
import { cutOffScheduler } from "../faults/partition.ts";
import { type MoveRow, REDIS_COMMAND, redisClientArgv, TestCluster, until } from "./cluster.ts";

const KEYS_MB = 190;
/** Slow enough for something to happen while pages follow. */
const SLOW = 24e6;
const LEASE_MS = 5_000;

interface Migration {
  readonly state: string;
  readonly phase: string | null;
  readonly error: string | null;
}

describe("post-copy", () => {
  let cluster: TestCluster;
  let client: RedisClient;
  let id = "";
  beforeAll(async () => {
    cluster = await TestCluster.start(3, { leaseMs: LEASE_MS });
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "512m", "--restart", "never", "big", "redis"],
      ...["--", ...REDIS_COMMAND],
    );
    const container = await cluster.container("big");
    ({ id } = container);
    client = new RedisClient(redisClientArgv(cluster, "n3", container.address));
    await client.fill(KEYS_MB);
    await client.mark();
  });
  afterAll(async () => {
    await client?.[Symbol.asyncDispose]();
    await cluster[Symbol.asyncDispose]();
  });

  const checkUnharmed = async (): Promise<void> => {
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
    expect(await client.wrongKeys()).toBe(0);
  };
  const startFilling = async (to: string): Promise<string> => {
    const { id: migration } = await cluster.startMove("big", to, MigrationMode.POSTCOPY, SLOW);
    const info = await cluster.watchMigration(migration, ({ phase }) => phase === "filling");
    expect(info).toMatchObject({ state: "switched", phase: "filling" });
    return migration;
  };
  const migrationNow = async (migration: string): Promise<Migration> =>
    await cluster.json<Migration>("migrations", migration);

  test("a container runs at the target first, and its memory follows: there and back", async () => {
    const planned = await cluster.json<{ predicted: { blackoutMs: number; totalMs: number } }>(
      ...["move", "big", "n2", "--mode", "postcopy", "--dry-run"],
    );
    expect(planned.predicted).toMatchObject({ mode: "postcopy", rounds: 1 });
    expect(planned.predicted.totalMs).toBeGreaterThan(planned.predicted.blackoutMs);
    for (const to of ["n2", "n1"]) {
      const move = await cluster.json<MoveRow>("move", "big", to, "--mode", "postcopy");
      expect(move).toMatchObject({ state: "finished", mode: "postcopy", to });
      expect(move.memoryBytes).toBeGreaterThan(KEYS_MB * 1024 * 1024);
      // They do not compress.
      expect(move.sentBytes).toBeGreaterThan(KEYS_MB * 1024 * 1024);
      expect(move.blackoutMs).toBeGreaterThan(0);
      await checkUnharmed();
      expect(cluster.runningOn(id)).toEqual([to]);
      expect(cluster.isKnownOn(to === "n2" ? "n1" : "n2", id)).toBe(false);
    }
  });

  test("is refused a cancellation after the switch, and waits for links, servers and agents that break", async () => {
    const migration = await startFilling("n2");
    const cancelled = await cluster.cli(["migrations", "--cancel", migration]);
    expect(cancelled.code).toBe(3);
    expect(cancelled.stderr).toContain("already belongs to the target");
    // What the source still has is not gone from there.
    expect(cluster.runningOn(id)).toEqual(["n2"]);
    expect(cluster.processesOn("n1", id).length).toBeGreaterThan(0);
    {
      await using _ = await cutOffScheduler(cluster, "n1");
      await delay(3_000);
    }
    expect(await migrationNow(migration)).toMatchObject({ phase: "filling" });
    await cluster.dev.killNats();
    await cluster.dev.startNats();
    process.kill(await cluster.dev.node("n2").agentPid(), "SIGKILL");
    const ended = await cluster.watchMigration(migration, () => false);
    expect(ended).toMatchObject({ state: "finished" });
    await checkUnharmed();
    await until("nothing to be left of the move", () =>
      ["n1", "n2"].every((name) => leftovers(cluster, name, id, name === "n2").length === 0),
    );
  });

  test("ends, with a record of why, when the source is gone for good before all has followed", async () => {
    const migration = await startFilling("n1");
    await vanish(cluster, "n2", id);
    const waiting = await until("the source to be missed", async () => {
      const now = await migrationNow(migration);
      return now.error !== null && now;
    });
    expect(waiting).toMatchObject({ state: "switched", phase: "filling" });
    expect(waiting.error).toMatch(/n2 was lost .*"godwit node rm --is-off n2" ends big/);
    expect((await cluster.cli(["node", "rm", "n2"])).code).toBe(3);
    await cluster.must("node", "rm", "--is-off", "n2");
    expect(await migrationNow(migration)).toMatchObject({
      state: "lost",
      error: expect.stringContaining("memory that had not followed") as unknown,
    });
    const over = await until("it to have ended", async () => {
      const info = await cluster.info("big");
      return info.state === "exited" && info;
    });
    expect(over.message).toMatch(/n2 is gone for good/);
    expect(cluster.runningOn(id)).toEqual([]);
    expect(await cluster.must("events")).toContain("migration.lost");
    await cluster.must("rm", "big");
    expect(leftovers(cluster, "n1", id, false)).toEqual([]);
  });
});
