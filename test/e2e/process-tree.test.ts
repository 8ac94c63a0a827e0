import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type MoveRow, TestCluster, until } from "./cluster.ts";
import { TREE } from "./workload/tree.ts";

describe("a process tree", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(2);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("keeps its pids, its output, its pipe and its file positions across a move", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "64m", "tree", "redis", "--", "sh", "-c", TREE);
    const { id } = await cluster.container("tree");
    const numbers = async (): Promise<number[]> =>
      (await cluster.sh("tree", "cat /var/data/numbers")).trim().split("\n").map(Number);
    // The shell's children, as it numbers them.
    const tree = async (): Promise<string[]> =>
      (await cluster.sh("tree", "cat /proc/1/task/1/children")).trim().split(" ").toSorted();
    await until("numbers in the file", async () => (await numbers()).length > 30);
    const before = await tree();
    expect(before).toHaveLength(2);
    await cluster.sh("tree", "rm /var/data/removed-later; ln -s numbers /var/data/link");
    const logBefore = await cluster.must("logs", "tree");
    const countBefore = (await numbers()).length;

    const move = await cluster.json<MoveRow>("move", "tree", "n2");
    expect(move).toMatchObject({ state: "finished", from: "n1", to: "n2" });
    expect(cluster.runningOn(id)).toEqual(["n2"]);
    expect(cluster.isKnownOn("n1", id)).toBe(false);

    expect(await tree()).toEqual(before);
    await until("more numbers", async () => (await numbers()).length > countBefore + 30);
    const after = await numbers();
    // Nothing lost, repeated or torn: the pipe's content and the writer's position came along.
    expect(after).toEqual(after.map((_, index) => index + 1));
    expect(await cluster.sh("tree", "cat /proc/1/fd/7")).toBe("kept\n");
    expect((await cluster.cli(["exec", "tree", "--", "ls", "/var/data/removed-later"])).code).not.toBe(0);
    expect(await cluster.sh("tree", "readlink /var/data/link")).toBe("numbers\n");

    const log = await until("a log that goes on", async () => {
      const text = await cluster.must("logs", "tree");
      return text.length > logBefore.length + 20 ? text : undefined;
    });
    expect(log.startsWith(logBefore)).toBe(true);
    const lines = log.trim().split("\n");
    expect(lines).toEqual(lines.map((_, index) => `line ${(index + 1) * 25}`));
    await cluster.must("rm", "-f", "tree");
  });

  test("processes of several users move together, each as itself", async () => {
    const script = 'su redis -s /bin/sh -c "exec sleep 1001" & exec sleep 1000';
    await cluster.must("run", "--node", "n1", "users", "redis", "--", "sh", "-c", script);
    await cluster.must(
      "run",
      "--node",
      "n1",
      "-u",
      "redis",
      "-w",
      "/tmp",
      "user",
      "redis",
      "--",
      "sleep",
      "1000",
    );
    const who = async (): Promise<string> =>
      await cluster.sh("users", "ps -o user,args | grep '[s]leep 100'");
    await until("both", async () => (await who()).trim().split("\n").length === 2);
    const before = await who();
    expect(before).toContain("redis");
    for (const name of ["users", "user"])
      expect(await cluster.json<MoveRow>("move", name, "n2")).toMatchObject({ state: "finished", to: "n2" });
    expect(await who()).toBe(before);
    expect(await cluster.sh("user", "id -un; readlink /proc/1/cwd")).toBe("redis\n/tmp\n");
    await cluster.must("rm", "-f", "users", "user");
  });
});
