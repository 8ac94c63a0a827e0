import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import { type ContainerRow, type MoveRow, redisClientArgv, TestCluster, until } from "./cluster.ts";
import { kindsOf, PYTHON_IMAGE, workloadCommand, writtenBy } from "./workload-program.ts";

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

/** Of the network's group, before it moves. What came meanwhile, were it lost, would be more than the test allows for. */
const CHECKPOINTS = 4;

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
      onTestFinished(async () => void (await cluster.cli(["rm", "-f", name])));
      const here = await start(cluster, "refused", [kind], name);
      await until(`${kind} to be set up`, () => kind in writtenBy(cluster, here, "ready"));
      const result = await cluster.cli(["move", name, "n2"]);
      expect(result.code).not.toBe(0);
      expect(result.stderr).toMatch(words);
      expect(await cluster.container(name)).toMatchObject({ state: "running", node: "n1", restarts: 0 });
      const before = counts(cluster, here)[kind] ?? 0;
      await until(`${kind} to go on`, () => (counts(cluster, here)[kind] ?? 0) > before);
      await cluster.sh(name, "touch /finish");
      const found = await until("its result", () => writtenBy(cluster, here, "result")[kind]);
      expect(found.trim()).toBe("ok");
    },
  );

  describe.each(chosen)("$group", ({ group, kinds }) => {
    let results: Record<string, string> = {};
    const moves: MoveRow[] = [];
    let outside: OutsideResult | undefined;
    let after: ContainerRow | undefined;

    beforeAll(async () => {
      const { address, id, node } = await start(cluster, group, kinds);
      await until(
        `${group} to be set up`,
        () => Object.keys(writtenBy(cluster, { node, id }, "ready")).length === kinds.length,
        150_000,
      );
      let home = { node, id };
      const client = kinds.includes("tcp_outside") ? await OutsideClient.start(cluster, address) : undefined;
      // It stands still for that too, and goes on where it is.
      for (let at = 0; group === "network" && at < CHECKPOINTS; at += 1)
        await cluster.must("checkpoint", "create", group);
      for (const target of ROUTES[group]) {
        moves.push(await cluster.json<MoveRow>("move", group, target));
        home = { node: (await cluster.container(group)).node, id };
        const before = counts(cluster, home);
        await until(
          `${group} to work on after its move to ${target}`,
          () => {
            const now = counts(cluster, home);
            const failed = writtenBy(cluster, home, "result");
            return kinds.every((kind) => kind in failed || (now[kind] ?? 0) > (before[kind] ?? 0));
          },
          60_000,
        );
      }
      outside = await client?.finish();
      await cluster.sh(group, "touch /finish");
      results = await until(
        `${group} to check what it has`,
        () => {
          const found = writtenBy(cluster, home, "result");
          return Object.keys(found).length === kinds.length && found;
        },
        60_000,
      );
      after = await cluster.container(group);
    });
    afterAll(async () => {
      // Also when it failed: what goes on working would take from those that come after it.
      await cluster.cli(["rm", "-f", group]);
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
      expect(outside?.datagrams).toBeGreaterThan(500);
      const { datagrams = 0, lostDatagrams = 0, slowestAnswerMs = 0 } = outside ?? {};
      process.stdout.write(
        `${lostDatagrams} of ${datagrams} datagrams lost, slowest new connection ${slowestAnswerMs.toFixed(0)} ms\n`,
      );
      // All that came while it stood still would be some 6 %.
      expect(lostDatagrams).toBeLessThan(0.03 * datagrams);
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
): Promise<ContainerRow> {
  await cluster.must(
    ...["run", "--node", "n1", "--memory", "1g", name, "python", "--"],
    ...workloadCommand(group, kinds),
  );
  return await cluster.container(name);
}

/** How often each kind has done its work. */
function counts(
  cluster: TestCluster,
  where: { readonly node: string; readonly id: string },
): Record<string, number> {
  const texts = writtenBy(cluster, where, "count");
  return Object.fromEntries(Object.entries(texts).map(([kind, text]) => [kind, Number(text)]));
}

interface OutsideResult {
  readonly problems: string[];
  readonly echoed: number;
  readonly poured: number;
  readonly answers: number;
  readonly slowestAnswerMs: number;
  readonly datagrams: number;
  readonly lostDatagrams: number;
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
