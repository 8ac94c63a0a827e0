/** The containers of the soak: each checks its own memory, files and connections for as long as it lives. */
import { readFileSync } from "node:fs";

import { RedisClient } from "../demo/client-process.ts";
import { REDIS_COMMAND, redisClientArgv, type TestCluster, until } from "../e2e/cluster.ts";
import { kindsOf, readAll, workloadCommand } from "../e2e/workload-program.ts";

export interface Tenant extends AsyncDisposable {
  readonly name: string;
  readonly id: string;
  /** After every move, wherever it is now: it works on, and nothing of it is wrong so far. */
  check(home: string): Promise<void>;
  /** At the end: everything that it holds. */
  finish(home: string): Promise<void>;
}

const CLIENT_PAUSE_MS = 2;
const KEYS_MB = 60;

/** Redis under load, with a client that checks each answer on its one connection. */
export async function redisTenant(cluster: TestCluster, clientNode: string): Promise<Tenant> {
  const name = "cache";
  await cluster.must("run", "--memory", "512m", name, "redis", "--", ...REDIS_COMMAND);
  await until("redis", async () => (await cluster.container(name)).state === "running");
  const { address, id } = await cluster.container(name);
  const client = new RedisClient([...redisClientArgv(cluster, clientNode, address), String(CLIENT_PAUSE_MS)]);
  await client.fill(KEYS_MB);
  const mark = async (): Promise<boolean> => {
    const { connections, wrong, lost, error, requests } = await client.mark();
    if (connections !== 1 || wrong !== 0 || lost !== 0 || error !== "")
      throw new Error(`${connections} connections, ${wrong} wrong answers, ${lost} lost: ${error}`);
    return requests > 0;
  };
  return {
    name,
    id,
    check: async () => {
      await mark();
      await until("answers", mark);
    },
    finish: async () => {
      const wrong = await client.wrongKeys();
      if (wrong > 0) throw new Error(`${wrong} keys are not what they were`);
    },
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

/** A shell, a process that writes numbers into a pipe, and one that reads them into a file. */
const TREE = `
( n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done ) | ( exec 8>>/numbers; while read n; do echo $n >&8; [ $((n % 25)) = 0 ] && echo "line $n"; done ) &
wait`;

export async function treeTenant(cluster: TestCluster): Promise<Tenant> {
  const name = "tree";
  await cluster.must("run", "--memory", "64m", name, "redis", "--", "sh", "-c", TREE);
  const { id } = await cluster.container(name);
  const numbers = (home: string): number[] => {
    const { dataDir } = cluster.dev.node(home);
    const text = readFileSync(`${dataDir}/containers/${id}/upper/numbers`, "utf8");
    return text.split("\n").slice(0, -1).map(Number);
  };
  return {
    name,
    id,
    check: async (home) => {
      const before = await until("numbers", () => numbers(home).length);
      await until("more numbers", () => numbers(home).length > before);
      const all = numbers(home);
      const wrong = all.findIndex((number, index) => number !== index + 1);
      if (wrong >= 0) throw new Error(`${all[wrong]} is where ${wrong + 1} should be`);
    },
    finish: async () => {
      const lines = (await cluster.must("logs", name)).trim().split("\n");
      const wrong = lines.findIndex((line, index) => line !== `line ${(index + 1) * 25}`);
      if (wrong >= 0) throw new Error(`its log has '${lines[wrong]}' as line ${wrong + 1}`);
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** A group of test/e2e/workload. */
export async function pythonTenant(
  cluster: TestCluster,
  group: string,
  without: readonly string[] = [],
): Promise<Tenant> {
  const kinds = kindsOf(group).filter((kind) => !without.includes(kind));
  await cluster.must("run", "--memory", "512m", group, "python", "--", ...workloadCommand(group, kinds));
  const { id } = await cluster.container(group);
  const names = async (folder: string): Promise<string[]> =>
    (await cluster.sh(group, `ls ${folder}`)).split("\n").filter((name) => kinds.includes(name));
  await until(`${group} to be set up`, async () => (await names("/ready")).length === kinds.length, 120_000);
  const failures = async (): Promise<string[]> =>
    Object.entries(await readAll(cluster, group, "/result"))
      .filter(([kind, text]) => kinds.includes(kind) && text.trim() !== "ok")
      .map(([kind, text]) => `${kind}: ${text.trim().split("\n").slice(-3).join(" / ")}`);
  const mustBeWell = async (): Promise<void> => {
    const failed = await failures();
    if (failed.length > 0) throw new Error(failed.join("; "));
  };
  return {
    name: group,
    id,
    check: async () => {
      const before = await readAll(cluster, group, "/count");
      await until(
        `every kind of ${group} to work on`,
        async () => {
          await mustBeWell();
          const now = await readAll(cluster, group, "/count");
          return kinds.every((kind) => Number(now[kind] ?? 0) > Number(before[kind] ?? 0));
        },
        60_000,
      );
    },
    finish: async () => {
      await cluster.sh(group, "touch /finish");
      await until(
        `${group} to check all that it has`,
        async () => (await names("/result")).length === kinds.length,
        120_000,
      );
      await mustBeWell();
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
