/** Nodes are emptied as their plan says, whatever kinds of containers they have, and get back what they had. */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import { type MoveRow, REDIS_COMMAND, REDIS_IMAGE, redisClientArgv, TestCluster, until } from "./cluster.ts";

const PYTHON_IMAGE = `${dirname(REDIS_IMAGE)}/python.tar`;
const IO_URING =
  "import ctypes, time; ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)); time.sleep(100000)";

interface Item {
  readonly container: string;
  readonly to: string | null;
  readonly mode: string | null;
  readonly reason: string | null;
}
interface Planned extends Item {
  readonly action: string;
  readonly blackoutMs: number | null;
  readonly sentBytes: number | null;
}
interface Drain {
  readonly state: string;
  readonly moved: readonly Item[];
  readonly failed: readonly Item[];
  readonly remaining: readonly Item[];
  readonly plan: readonly Planned[];
}
interface NodeRow {
  readonly name: string;
  readonly state: string;
  readonly schedulable: boolean;
}

/** A first process that has no handler for it is not ended by SIGTERM: its grace would only be waited for. */
const AT_ONCE = ["--stop-signal", "KILL"];

const namesOf = (items: readonly Item[]): string[] => items.map(({ container }) => container).sort();

describe("maintenance of nodes", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    await cluster.must("image", "import", "python", PYTHON_IMAGE);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const on = async (name: string): Promise<string> => (await cluster.container(name)).node;
  const sleeper = async (name: string, ...flags: string[]): Promise<string> =>
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "64m", ...AT_ONCE, ...flags],
      ...[name, "redis", "--", "sleep", "100000"],
    );
  const nodeRow = async (name: string): Promise<NodeRow | undefined> =>
    (await cluster.json<NodeRow[]>("node", "ls")).find((row) => row.name === name);

  test("a drain does what its plan said, and with a deadline and --force goes down the ladder", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "256m", "cache", "redis", "--", ...REDIS_COMMAND);
    const files = ["--dir", "/var/lib/redis", "--appendonly", "yes"];
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "128m", "--migration", "cold", "store", "redis", "--"],
      ...REDIS_COMMAND,
      ...files,
    );
    await cluster.sh("store", "redis-cli set key kept");
    await sleeper("plain");
    await sleeper("pinned", "--migration", "never");
    await sleeper("idle");
    await cluster.must("stop", "idle");
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "64m", ...AT_ONCE, "--no-cures"],
      ...["ring", "python", "--", "python3", "-c", IO_URING],
    );
    await until("io_uring to be found", async () =>
      JSON.stringify(await cluster.json("why", "ring")).includes("io-uring"),
    );
    await using client = new RedisClient(
      redisClientArgv(cluster, "n3", (await cluster.container("cache")).address),
    );
    await client.fill(20);
    await client.mark();

    const { plan, state } = await cluster.json<Drain>("node", "drain", "n1", "--dry-run");
    expect(state).toBe("planned");
    const actions = Object.fromEntries(plan.map(({ action, container }) => [container, action]));
    expect(actions).toEqual({
      ...{ cache: "live", plain: "live", store: "cold" },
      ...{ idle: "stay", pinned: "stay", ring: "stay" },
    });
    const cache = plan.find(({ container }) => container === "cache");
    expect(cache?.blackoutMs).toBeGreaterThan(0);
    expect(cache?.sentBytes).toBeGreaterThan(10e6);
    expect(await nodeRow("n1")).toMatchObject({ state: "ready", schedulable: true });

    const result = await cluster.cli(["node", "drain", "n1", "-o", "json"]);
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/n1 could not be emptied: .*pinned .*ring/);
    const drain = JSON.parse(result.stdout) as Drain;
    expect(namesOf(drain.moved)).toEqual(["cache", "plain", "store"]);
    for (const { container, mode, to } of drain.moved) {
      expect(to).toBe(drain.plan.find((item) => item.container === container)?.to);
      expect(mode).toBe(container === "store" ? "cold" : "precopy");
      expect(await on(container)).toBe(to);
    }
    expect(namesOf(drain.failed)).toEqual(["pinned", "ring"]);
    expect(namesOf(drain.remaining)).toEqual(["idle"]);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
    expect(await client.wrongKeys()).toBe(0);
    expect((await cluster.sh("store", "redis-cli get key")).trim()).toBe("kept");
    expect(await cluster.must("logs", "store")).toMatch(/User requested shutdown|Received SIGTERM/);

    const rest = await cluster.json<Drain>("node", "drain", "n1", "--deadline", "1s", "--force");
    expect(rest).toMatchObject({ state: "drained", failed: [] });
    expect(namesOf(rest.moved)).toEqual(["pinned", "ring"]);
    expect(rest.moved.find(({ container }) => container === "ring")?.mode).toBe("cold");
    expect(await nodeRow("n1")).toMatchObject({ state: "drained", schedulable: false });
    await cluster.must("run", "--memory", "64m", "late", "redis", "--", "sleep", "100000");
    expect(await on("late")).not.toBe("n1");
    await cluster.must("rm", "-f", "late", "ring", "pinned", "plain", "idle", "store");
  });

  test("what was evacuated comes back, and what others have decided about is left alone", async () => {
    await cluster.must("node", "uncordon", "n1");
    for (const name of ["a", "b", "c"]) await sleeper(name);
    const away = await cluster.json<Drain>("node", "evacuate", "n1");
    expect(namesOf(away.moved)).toEqual(["a", "b", "c"]);
    const other = (await on("b")) === "n2" ? "n3" : "n2";
    expect(await cluster.json<MoveRow>("move", "b", other)).toMatchObject({ state: "finished" });
    await cluster.must("rm", "-f", "c");
    const back = await cluster.json<Drain>("node", "return", "n1");
    expect(back.state).toBe("returned");
    expect(back.moved).toMatchObject([{ container: "a", to: "n1", mode: "precopy" }]);
    expect(Object.fromEntries(back.remaining.map(({ container, reason }) => [container, reason]))).toEqual({
      b: `was moved since: it is on ${other}: left alone`,
      c: "was removed since: left alone",
    });
    expect([await on("a"), await on("b")]).toEqual(["n1", other]);
    expect(await nodeRow("n1")).toMatchObject({ state: "ready", schedulable: true });
    await cluster.must("rm", "-f", "b");
  });

  test("rolling maintenance: one node after the other, up to the first failure", async () => {
    const folder = await mkdtemp(`${tmpdir()}/godwit-maintenance-`);
    try {
      const script = `echo "$GODWIT_NODE $1" >> ${folder}/done`;
      const said = await cluster.must(
        ...["maintenance", "run", "-o", "json", "--nodes", "n1,n2", "--", "sh", "-c", script, "sh", "{node}"],
      );
      const reports = JSON.parse(said) as { node: string; state: string }[];
      expect(reports).toMatchObject([
        { node: "n1", state: "done", evacuated: { state: "drained" }, returned: { state: "returned" } },
        { node: "n2", state: "done", command: { exitCode: 0 } },
      ]);
      expect(readFileSync(`${folder}/done`, "utf8")).toBe("n1 n1\nn2 n2\n");
      expect(await on("a")).toBe("n1");
    } finally {
      await rm(folder, { recursive: true });
    }
    const failed = await cluster.cli(["maintenance", "run", "--nodes", "n1,n2", "--command", "false"]);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toMatch(/^godwit: n1: the command ended with exit code 1 .*godwit node return n1/);
    expect(await nodeRow("n1")).toMatchObject({ state: "drained" });
    expect(await nodeRow("n2")).toMatchObject({ state: "ready" });
    await cluster.must("node", "return", "n1");
    expect(await on("a")).toBe("n1");
  });
});
