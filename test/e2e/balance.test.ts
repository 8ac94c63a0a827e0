/** A CPU hog appears among twelve containers: the load is evened by live moves, no client notices, then all is still. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { CLI } from "./cluster-user.ts";
import { TestCluster, until } from "./cluster.ts";

const CLIENT = fileURLToPath(new URL("many-connections.ts", import.meta.url));
/** Of each host: small, so that a machine that has other things to do can give all of them what they want. */
const CPU_MILLIS = 240;
/** A server, and beside it something that uses some 5 % of the host. */
const WORK = `redis-server --bind 0.0.0.0 --protected-mode no --save "" >/dev/null &
while :; do i=0; while [ $i -lt 1500 ]; do i=$((i+1)); done; sleep 0.2; done`;
const SETTINGS = {
  "--threshold": "12",
  "--round": "1s",
  "--hold": "3",
  "--smoothing": "4s",
  "--settle": "5s",
  "--cool-down": "10m",
  // A machine that has other things to do takes its time.
  "--blackout-budget": "30s",
  "--parallel-per-node": "2",
  // Neither do its moves cost what they would cost elsewhere, and the hosts are far smaller than they are.
  "--gain-over-cost": "0.5",
  "--expected-stay": "30m",
};

interface Status {
  readonly policy: string;
  readonly paused: string | null;
  readonly imbalance: number;
  readonly idleBecause: readonly string[];
  readonly nodes: readonly { readonly node: string; readonly load: number }[];
  readonly moves: readonly {
    readonly container: string;
    readonly from: string;
    readonly state: string;
    readonly predictedGain: number;
    readonly outcome: { readonly actualGain: number | null; readonly remark: string | null } | null;
  }[];
}

describe("balancing", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3, { cpuMillis: CPU_MILLIS });
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const status = (): Promise<Status> => cluster.json<Status>("balance");
  const loadOf = ({ nodes }: Status, name: string): number =>
    nodes.find(({ node }) => node === name)?.load ?? 0;

  test("evens the load within a minute, with no client losing its connection, and then stays still", async () => {
    const names = Array.from({ length: 12 }, (_, at) => `c${at}`);
    for (const [at, name] of names.entries())
      await cluster.must(
        ...["run", "--detach", "--node", `n${(at % 3) + 1}`, "--memory", "64m"],
        ...[name, "redis", "--", "sh", "-c", WORK],
      );
    await until("all to run", async () => {
      const rows = await cluster.json<{ state: string }[]>("ps");
      return rows.every(({ state }) => state === "running");
    });
    const addresses = await Promise.all(names.map(async (name) => (await cluster.container(name)).address));
    await until("all servers to answer", async () => {
      for (const name of names) await cluster.sh(name, "redis-cli ping");
      return true;
    });
    const argv = ["dev", "exec", "--data", cluster.dev.dataDir, "n3", "--", process.execPath, CLIENT];
    const client = spawn(process.execPath, [CLI, ...argv, ...addresses], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    let output = "";
    client.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
    try {
      await cluster.must("balance", "set", "--policy", "auto", ...Object.entries(SETTINGS).flat());
      await cluster.must(
        "run",
        "--node",
        "n1",
        "--cpus",
        "0.08",
        "hog",
        "redis",
        "--",
        "sh",
        "-c",
        "while :; do :; done",
      );
      const begunMs = performance.now();
      const uneven = await until("the imbalance to be seen", async () => {
        const now = await status();
        if (now.imbalance <= 0.12) throw new Error(JSON.stringify(now.nodes));
        return now;
      });
      expect(uneven.nodes[0]?.node).toBe("n1");
      const even = await until(
        "the load to be even",
        async () => {
          const now = await status();
          const isOver = now.moves.length > 0 && now.moves.every(({ state }) => state === "finished");
          const isEven = loadOf(now, "n1") < loadOf(uneven, "n1") && now.imbalance <= 0.12;
          if (!isOver || !isEven) throw new Error(JSON.stringify({ ...now, settings: undefined }));
          return now;
        },
        60_000,
      );
      process.stdout.write(
        `evened in ${Math.round((performance.now() - begunMs) / 1000)} s by ${even.moves.length} moves: imbalance ${uneven.imbalance} to ${even.imbalance}\n`,
      );
      const measured = await until("what the moves gained to be measured", async () => {
        const now = await status();
        return now.moves.every(({ outcome }) => outcome !== null) && now;
      });
      expect(measured.moves.every(({ from }) => from === "n1")).toBe(true);
      expect(measured.moves[0]?.outcome?.remark).toBeNull();
      expect(measured.paused).toBeNull();
      const why = await cluster.must("why", measured.moves[0]?.container ?? "");
      expect(why).toMatch(/to balance the load: expected to bring .* closer; it gained -?\d+ points/);
      expect(await cluster.must("events")).toMatch(/balance\.measured/);
      const { length } = measured.moves;
      // Ten rounds more, of which the last are those after which it would have acted.
      const stillUntilMs = performance.now() + 10_000;
      await until("ten rounds without a move", async () => {
        expect((await status()).moves).toHaveLength(length);
        return performance.now() > stillUntilMs;
      });
    } finally {
      client.stdin.end();
      if (client.exitCode === null) await once(client, "exit");
    }
    const { answers, problems } = JSON.parse(output) as { answers: number[]; problems: string[] };
    expect(problems).toEqual([]);
    expect(answers.filter((count) => count > 20)).toHaveLength(12);
  });
});
