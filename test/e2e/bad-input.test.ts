import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type MoveRow, REDIS_COMMAND, TestCluster, until } from "./cluster.ts";

describe("bad input is answered by one line that says what to do", () => {
  let cluster: TestCluster;
  let folder: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "godwit-input-"));
    cluster = await TestCluster.start(3);
    await cluster.must("run", "--node", "n1", "--memory", "64m", "a", "redis", "--", ...REDIS_COMMAND);
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "64m", "--stop-signal", "KILL"],
      ...["stopped", "redis", "--", "sleep", "100000"],
    );
    await cluster.must("stop", "stopped");
    await cluster.must("node", "cordon", "n3");
    writeFileSync(join(folder, "garbage.tar"), Buffer.alloc(5000, 7));
    writeFileSync(join(folder, "empty.tar"), "");
  });
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true });
    await cluster[Symbol.asyncDispose]();
  });

  test.each<[string, string[], number, RegExp]>([
    ["unknown image", ["run", "b", "nothing"], 1, /image/i],
    ["unknown node", ["run", "--node", "n9", "b", "redis", "--", "sleep", "1"], 1, /n9/],
    ["unknown container", ["inspect", "nobody"], 1, /nobody/],
    ["a name taken", ["run", "a", "redis", "--", "sleep", "1"], 1, /\ba\b/],
    ["a name that is none", ["run", "A_b", "redis", "--", "sleep", "1"], 1, /name/i],
    ["too little memory", ["run", "--memory", "1m", "b", "redis", "--", "sleep", "1"], 1, /memory/i],
    [
      "more memory than any node has",
      ["run", "--memory", "900g", "b", "redis", "--", "sleep", "1"],
      3,
      /memory/i,
    ],
    ["a flag that does not exist", ["run", "--fly", "b", "redis"], 2, /fly/],
    ["a size that is none", ["run", "--memory", "lots", "b", "redis"], 2, /lots/],
    ["a move to the node it is on", ["move", "a", "n1"], 3, /n1/],
    ["a move to a cordoned node", ["move", "a", "n3"], 3, /cordon/],
    ["a move to nowhere", ["move", "a", "n9"], 1, /n9/],
    ["a move of a stopped container", ["move", "stopped", "n2"], 3, /stopped|running/],
    ["rm of a running container", ["rm", "a"], 3, /running|force|-f/],
    ["an image in use", ["image", "rm", "redis"], 3, /use/],
    ["exec in a stopped container", ["exec", "stopped", "--", "true"], 3, /stopped|running/],
  ])("%s", async (_, args, code, words) => {
    const result = await cluster.cli(args);
    expect(result.stderr.trim().split("\n"), result.stderr).toHaveLength(1);
    expect(result.stderr).toMatch(words);
    expect(result.code, result.stderr).toBe(code);
    expect(result.stdout).toBe("");
  });

  test.each(["garbage.tar", "empty.tar", "missing.tar"])("image import of %s", async (file) => {
    const result = await cluster.cli(["image", "import", "bad", join(folder, file)]);
    expect(result.code).toBe(1);
    expect(result.stderr.trim().split("\n")).toHaveLength(1);
    expect((await cluster.json<{ name: string }[]>("image", "ls")).map((image) => image.name)).toEqual([
      "redis",
    ]);
  });

  test("a target without room refuses, and says how much there is", async () => {
    const { memoryBytes } = (await cluster.json<{ name: string; memoryBytes: number }[]>("node", "ls")).find(
      (node) => node.name === "n2",
    ) ?? { memoryBytes: 0 };
    const most = `${Math.floor(memoryBytes / 1048576) - 40}m`;
    await cluster.must("run", "--node", "n2", "--memory", most, "big", "redis", "--", "sleep", "100000");
    const result = await cluster.cli(["move", "a", "n2"]);
    expect(result.code).toBe(3);
    expect(result.stderr).toMatch(/memory/i);
    await cluster.must("rm", "-f", "big");
  });

  test("a command that does not exist is told, and started again by the restart policy only", async () => {
    const result = await cluster.cli([
      "run",
      "--restart",
      "never",
      "typo",
      "redis",
      "--",
      "/no/such/program",
    ]);
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/no such/i);
    await cluster.must("rm", "-f", "typo");
  });

  test("a container that exits during its move is recorded, and the move aborted", async () => {
    await cluster.must(
      "run",
      "--node",
      "n1",
      "--memory",
      "64m",
      "--restart",
      "never",
      "brief",
      "redis",
      "--",
      "sh",
      "-c",
      "sleep 2; exit 3",
    );
    const move = await cluster.startMove("brief", "n2");
    const ended = await cluster.watchMigration(move.id, () => false);
    const row = await until("its end to be known", async () => {
      const found = await cluster.container("brief");
      return found.state === "exited" ? found : undefined;
    });
    expect(row.node).toBe(ended.state === "finished" ? "n2" : "n1");
    await cluster.must("rm", "-f", "brief");
  });

  test("dev up twice is refused and changes nothing", async () => {
    const result = await cluster.cli(["dev", "up", "--data", cluster.dev.dataDir]);
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/already|up/);
    expect(await cluster.container("a")).toMatchObject({ state: "running", restarts: 0 });
  });

  test("garbage on the API's socket is harmless", async () => {
    for (const garbage of [
      "GET / HTTP/1.0\r\n\r\n",
      "\0".repeat(100_000),
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff",
    ]) {
      await new Promise<void>((resolve) => {
        const socket = connect(cluster.dev.api.replace("unix:", ""), () => socket.end(garbage));
        socket.on("error", () => undefined);
        socket.on("close", () => resolve());
        socket.setTimeout(2_000, () => socket.destroy());
        socket.resume();
      });
    }
    expect(await cluster.container("a")).toMatchObject({ state: "running" });
  });

  test("a drain moves what it can and says what it cannot", async () => {
    await cluster.must("node", "uncordon", "n3");
    await cluster.must(
      "run",
      "--node",
      "n1",
      "--memory",
      "64m",
      "--migration",
      "never",
      "pinned",
      "redis",
      "--",
      "sleep",
      "100000",
    );
    const result = await cluster.cli(["node", "drain", "n1", "-o", "json"]);
    const drain = JSON.parse(result.stdout) as {
      moved: { container: string }[];
      failed: { container: string; reason: string }[];
      remaining: unknown[];
    };
    expect(drain.moved.map((item) => item.container)).toEqual(["a"]);
    expect(drain.failed.map((item) => item.container)).toEqual(["pinned"]);
    expect(drain.failed[0]?.reason).toMatch(/never/);
    expect(result.code).not.toBe(0);
    const moves = await cluster.json<MoveRow[]>("migrations");
    expect(moves[0]).toMatchObject({ from: "n1", state: "finished" });
  });
});
