/** The containers of the soak: each checks its own memory, files and connections for as long as it lives. */
import { readFileSync } from "node:fs";

import { RedisClient } from "../demo/client-process.ts";
import { REDIS_COMMAND, redisClientArgv, type TestCluster, until } from "../e2e/cluster.ts";
import { kindsOf, workloadCommand, writtenBy } from "../e2e/workload-program.ts";

export interface Tenant extends AsyncDisposable {
  readonly name: string;
  readonly id: string;
  /** After every move, wherever it is now: it works on, and nothing of it is wrong so far. */
  check(home: string): Promise<void>;
  /** At the end: everything that it holds. */
  finish(home: string): Promise<void>;
}

const CLIENT_PAUSE_MS = 10;
const KEYS_MB = 60;

/** Redis under load, with a client that checks each answer on its one connection. */
export async function redisTenant(cluster: TestCluster, node: string, clientNode: string): Promise<Tenant> {
  const name = "cache";
  await cluster.must(
    "run",
    "--node",
    node,
    "--failover",
    "never",
    "--memory",
    "512m",
    name,
    "redis",
    "--",
    ...REDIS_COMMAND,
  );
  await until("redis", async () => (await cluster.info(name)).state === "running");
  const { address, id } = await cluster.info(name);
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

export async function treeTenant(cluster: TestCluster, node: string): Promise<Tenant> {
  const name = "tree";
  await cluster.must(
    "run",
    "--node",
    node,
    "--failover",
    "never",
    "--memory",
    "64m",
    name,
    "redis",
    "--",
    "sh",
    "-c",
    TREE,
  );
  const { id } = await cluster.info(name);
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

/** Five tenants share the machine with three hosts: what they do beside checking themselves is kept low. */
const PACE = "PACE=5";
const LOOK_AGAIN_MS = 60_000;

/** A group of test/e2e/workload. */
export async function pythonTenant(
  cluster: TestCluster,
  node: string,
  group: string,
  without: readonly string[] = [],
): Promise<Tenant> {
  const kinds = kindsOf(group).filter((kind) => !without.includes(kind));
  await cluster.must(
    ...[
      "run",
      "--node",
      node,
      "--failover",
      "never",
      "--memory",
      "512m",
      "-e",
      PACE,
      group,
      "python",
      "--",
      ...workloadCommand(group, kinds),
    ],
  );
  const { id, node: first } = await until(`${group} to run`, async () => {
    const info = await cluster.info(group);
    return info.state === "running" && info;
  });
  const all = (home: string, folder: "ready" | "count" | "result"): Record<string, string> =>
    writtenBy(cluster, { node: home, id }, folder);
  const mustBeWell = (home: string): void => {
    const failed = Object.entries(all(home, "result")).filter(([, text]) => text.trim() !== "ok");
    if (failed.length > 0)
      throw new Error(
        failed.map(([kind, text]) => `${kind}: ${text.trim().split("\n").slice(-3).join(" / ")}`).join("; "),
      );
  };
  await until(
    `${group} to be set up`,
    () => Object.keys(all(first, "ready")).length === kinds.length,
    120_000,
  );
  return {
    name: group,
    id,
    check: async (home) => {
      const before = all(home, "count");
      await until(
        `every kind of ${group} to work on`,
        () => {
          const now = all(home, "count");
          const standing = kinds.filter((kind) => Number(now[kind] ?? 0) <= Number(before[kind] ?? 0));
          if (standing.length > 0) throw new Error(`not yet: ${standing.join(", ")}`);
          return true;
        },
        LOOK_AGAIN_MS,
      ).catch((error: unknown) => {
        mustBeWell(home);
        throw error;
      });
      mustBeWell(home);
    },
    finish: async (home) => {
      await cluster.sh(group, "touch /finish");
      await until(
        `${group} to check all that it has`,
        () => Object.keys(all(home, "result")).length === kinds.length,
        120_000,
      );
      mustBeWell(home);
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
