import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type ContainerRow, type MoveRow, redisClientArgv, TestCluster, until } from "./cluster.ts";
import { kindsOf, PYTHON_IMAGE, readAll, workloadCommand } from "./workload-program.ts";

/** A container for each group; its kinds are those of workload/GROUP.py, each in a process of its own. */
const GROUPS = ["processes", "times", "memory", "channels", "files", "network", "many"] as const;
const ROUTES: Record<(typeof GROUPS)[number], readonly string[]> = {
  processes: ["n2", "n1"],
  times: ["n2", "n1"],
  memory: ["n2", "n1", "n2"],
  channels: ["n2", "n1"],
  files: ["n2", "n1"],
  network: ["n2", "n1", "n2"],
  many: ["n2"],
};

const only = process.env["GODWIT_KINDS"]?.split(",");
const chosen = GROUPS.map((group) => ({
  group,
  kinds: kindsOf(group).filter((kind) => only === undefined || only.includes(kind) || only.includes(group)),
})).filter(({ kinds }) => kinds.length > 0);

describe("what a container may hold while it moves", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    await cluster.must("image", "import", "python", PYTHON_IMAGE);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test.each(only === undefined || only.includes("refused") ? REFUSED : [])(
    "%s is refused, and goes on where it is",
    async (kind, words) => {
      const name = kind.replaceAll("_", "-");
      await start(cluster, "refused", [kind], name);
      await until(`${kind} to be set up`, async () => (await lines(cluster, name, "ls /ready")).length === 1);
      const result = await cluster.cli(["move", name, "n2"]);
      expect(result.code).not.toBe(0);
      expect(result.stderr).toMatch(words);
      expect(await cluster.container(name)).toMatchObject({ state: "running", node: "n1", restarts: 0 });
      const before = (await counts(cluster, name))[kind] ?? 0;
      await until(`${kind} to go on`, async () => ((await counts(cluster, name))[kind] ?? 0) > before);
      await cluster.sh(name, "touch /finish");
      const results = await until("its result", async () => {
        const found = await readAll(cluster, name, "/result");
        return kind in found ? found : undefined;
      });
      expect(results[kind]?.trim()).toBe("ok");
      await cluster.must("rm", "-f", name);
    },
  );

  describe.each(chosen)("$group", ({ group, kinds }) => {
    let results: Record<string, string> = {};
    const moves: MoveRow[] = [];
    let outside: OutsideResult | undefined;
    let after: ContainerRow | undefined;

    beforeAll(async () => {
      await start(cluster, group, kinds);
      await until(
        `${group} to be set up`,
        async () => (await lines(cluster, group, "ls /ready")).length === kinds.length,
        150_000,
      );
      const { address } = await cluster.container(group);
      const client = kinds.includes("tcp_outside") ? await OutsideClient.start(cluster, address) : undefined;
      for (const target of ROUTES[group]) {
        const before = await counts(cluster, group);
        moves.push(await cluster.json<MoveRow>("move", group, target));
        await until(`${group} to work on after its move to ${target}`, async () => {
          const now = await counts(cluster, group);
          const failed = await lines(cluster, group, "ls /result");
          return kinds.every((kind) => failed.includes(kind) || (now[kind] ?? 0) > (before[kind] ?? 0));
        });
      }
      outside = await client?.finish();
      await cluster.sh(group, "touch /finish");
      results = await until(
        `${group} to check what it has`,
        async () => {
          const found = await readAll(cluster, group, "/result");
          return Object.keys(found).length === kinds.length ? found : undefined;
        },
        60_000,
      );
      after = await cluster.container(group);
      await cluster.must("rm", "-f", group);
    });

    test("every move was live and complete", () => {
      expect(after).toMatchObject({ state: "running", restarts: 0 });
      expect(moves.map((move) => move.state)).toEqual(ROUTES[group].map(() => "finished"));
    });

    test.each(kinds)("%s", (kind) => {
      expect(results[kind]?.trim()).toBe("ok");
    });

    test.runIf(kinds.includes("tcp_outside"))("connections from another host", () => {
      expect(outside).toMatchObject({ problems: [] });
      expect(outside?.echoed).toBeGreaterThan(10_000);
      expect(outside?.poured).toBeGreaterThan(10_000);
      expect(outside?.answers).toBeGreaterThan(20);
    });
  });
});

const REFUSED: readonly (readonly [string, RegExp])[] = [
  ["inotify_once", /IN_ONESHOT/],
  ["stopped", /SIGCONT/],
  ["eventfd_semaphore", /EFD_SEMAPHORE/],
  ["not_accepted", /accept/],
];

async function start(
  cluster: TestCluster,
  group: string,
  kinds: readonly string[],
  name = group,
): Promise<void> {
  await cluster.must(
    ...["run", "--node", "n1", "--memory", "1g", name, "python", "--"],
    ...workloadCommand(group, kinds),
  );
}

async function lines(cluster: TestCluster, name: string, script: string): Promise<string[]> {
  return (await cluster.sh(name, script)).split("\n").filter((line) => line !== "" && !line.endsWith(".new"));
}

/** How often each kind has done its work. */
async function counts(cluster: TestCluster, name: string): Promise<Record<string, number>> {
  const texts = await readAll(cluster, name, "/count");
  return Object.fromEntries(Object.entries(texts).map(([kind, text]) => [kind, Number(text)]));
}

interface OutsideResult {
  readonly problems: string[];
  readonly echoed: number;
  readonly poured: number;
  readonly answers: number;
}

/** workload-client.ts on host n3. */
class OutsideClient {
  readonly #child: ReturnType<typeof spawn>;
  readonly #lines: AsyncIterator<string>;

  private constructor(child: ReturnType<typeof spawn>, reader: AsyncIterable<string>) {
    this.#child = child;
    this.#lines = reader[Symbol.asyncIterator]();
  }

  static async start(cluster: TestCluster, address: string): Promise<OutsideClient> {
    const script = fileURLToPath(new URL("workload-client.ts", import.meta.url));
    const [program = "", ...rest] = redisClientArgv(cluster, "n3", address);
    const child = spawn(program, [...rest.slice(0, -2), script, address], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    if (child.stdout === null) throw new Error("no pipe to the client");
    const client = new OutsideClient(child, createInterface({ input: child.stdout }));
    const { value } = await client.#lines.next();
    if (value !== "ready") throw new Error(`the client outside said '${String(value)}'`);
    return client;
  }

  async finish(): Promise<OutsideResult> {
    this.#child.stdin?.end();
    const line = await this.#lines.next();
    if (this.#child.exitCode === null) await once(this.#child, "exit");
    if (line.done === true) throw new Error("the client outside died");
    return JSON.parse(line.value) as OutsideResult;
  }
}
