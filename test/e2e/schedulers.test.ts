/** Three schedulers and three nats-servers: the leader and a server are killed while containers start and one moves. */
import { afterAll, beforeAll, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import {
  type ContainerRow,
  type MoveRow,
  REDIS_COMMAND,
  redisClientArgv,
  TestCluster,
  until,
} from "./cluster.ts";

interface StatusRow {
  readonly leader: string;
  readonly epoch: number;
  readonly schedulers: readonly { id: string; role: string; logSequence: number }[];
  readonly servers: readonly { name: string; leads: boolean; current: boolean }[];
}

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await TestCluster.start(2, { schedulers: 3 });
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

const status = (): Promise<StatusRow> => cluster.json<StatusRow>("status");
const processOf = (id: string): string => {
  const found = cluster.dev.schedulers.find((one) => one.id === id);
  if (found === undefined) throw new Error(`there is no scheduler ${id}`);
  return found.name;
};

test("status shows all of them, and every one of their addresses leads to the leader", async () => {
  const { leader, schedulers, servers } = await until("all servers to have all of the log", async () => {
    const now = await status();
    return now.servers.every(({ current }) => current) && now;
  });
  expect(schedulers.map(({ id, role }) => [id, role])).toEqual(
    ["s1", "s2", "s3"].map((id) => [id, id === leader ? "leader" : "standby"]),
  );
  expect(servers.map(({ name }) => name)).toEqual(["nats1", "nats2", "nats3"]);
  for (const { api } of cluster.dev.schedulers)
    expect(await cluster.cli(["--api", api, "node", "ls", "-o", "json"])).toMatchObject({ code: 0 });
});

test("the leader and a nats-server are killed during a move and while containers are started", async () => {
  await cluster.must("run", "--node", "n1", "--memory", "256m", "cache", "redis", "--", ...REDIS_COMMAND);
  const [{ address, id } = { address: "", id: "" }] = await cluster.json<ContainerRow[]>("ps");
  await using client = new RedisClient(redisClientArgv(cluster, "n2", address));
  await client.fill(100);
  await client.mark();

  const { epoch, leader, servers } = await status();
  const names = ["a", "b", "c", "d"];
  const running = Promise.all(
    names.map((name) => cluster.cli(["run", "--memory", "32m", name, "redis", "--", "sleep", "100000"])),
  );
  const moving = cluster.cli(["move", "cache", "n2", "-o", "json"]);
  await until("the move to begin", async () => {
    const all = await cluster.json<MoveRow[]>("migrations");
    return all.some((one) => one.state === "running");
  });
  await Promise.all([
    cluster.dev.killApi(processOf(leader)),
    cluster.dev.killNats(servers.find((server) => server.leads)?.name),
  ]);

  expect((await running).map(({ code, stderr }) => [code, stderr])).toEqual(names.map(() => [0, ""]));
  const moved = await moving;
  const row = JSON.parse(moved.stdout) as MoveRow;
  expect(["finished", "aborted"]).toContain(row.state);
  const home = row.state === "finished" ? "n2" : "n1";
  await until(`exactly one running copy, on ${home}`, () => cluster.runningOn(id).join() === home);
  const rows = await cluster.json<ContainerRow[]>("ps");
  expect(rows.map(({ name, restarts, state }) => [name, state, restarts])).toEqual(
    [...names, "cache"].toSorted().map((name) => [name, "running", 0]),
  );
  expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
  const after = await status();
  expect(after.leader).not.toBe(leader);
  expect(after.epoch).toBeGreaterThan(epoch);

  await cluster.dev.startDead();
  await until("all to be there again", async () => {
    const now = await status();
    return now.schedulers.every((one) => one.role !== "silent") && now.servers.every((one) => one.current);
  });
  expect(await cluster.json<MoveRow>("move", "cache", home === "n1" ? "n2" : "n1")).toMatchObject({
    state: "finished",
  });
  expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
});

test("a leader that stands still is replaced, and follows when it goes on", async () => {
  const { leader, epoch } = await status();
  cluster.dev.signal(processOf(leader), "SIGSTOP");
  await cluster.must("run", "--memory", "32m", "e", "redis", "--", "sleep", "100000");
  cluster.dev.signal(processOf(leader), "SIGCONT");
  const now = await until("it to follow", async () => {
    const seen = await status();
    return seen.schedulers.some((one) => one.id === leader && one.role === "standby") ? seen : undefined;
  });
  expect(now.epoch).toBeGreaterThan(epoch);
  await cluster.must("rm", "-f", "e");
});
