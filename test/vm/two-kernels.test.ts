import { afterAll, afterEach, beforeAll, describe, expect, onTestFailed, test } from "vitest";

import { RedisClient } from "../demo/client-process.ts";
import { type MoveRow, REDIS_COMMAND, until } from "../e2e/cluster.ts";
import { TREE } from "../e2e/workload/tree.ts";
import { VmCluster } from "./cluster.ts";

/** What takes a second elsewhere takes half a minute here. */
const PATIENCE_MS = 900_000;
const MEGABYTES = 16;
/** linux/capability.h */
const CAP_SYS_RESOURCE = 24n;

describe("two machines with different kernels, cgroup v2 and systemd", () => {
  let cluster: VmCluster;
  beforeAll(async () => {
    cluster = await VmCluster.start([
      { name: "n1", kernel: "bookworm" },
      { name: "n2", kernel: "trixie" },
    ]);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  afterEach(async () => {
    for (const { name } of await cluster.json<{ name: string }[]>("ps")) await cluster.must("rm", "-f", name);
  });

  /** The units' last words, beside the failure itself. */
  function explain(): void {
    onTestFailed(async () => {
      process.stdout.write(`${await cluster.journals()}\n`);
    });
  }

  async function startRedis(): Promise<{ client: RedisClient; id: string; address: string }> {
    await cluster.must("run", "--node", "n1", "--memory", "128m", "cache", "redis", "--", ...REDIS_COMMAND);
    const { address, id } = await cluster.container("cache");
    // From the host that the container is not on at first: its packets cross the link between the machines.
    const client = new RedisClient(cluster.redisClientArgv("n2", address));
    await client.fill(MEGABYTES);
    return { client, id, address };
  }

  test("are what they are meant to be", async () => {
    explain();
    const [n1 = "", n2 = ""] = await Promise.all(
      cluster.machines.map((machine) =>
        machine.sh(
          "uname -r; stat -f -c %T /sys/fs/cgroup; systemctl is-active godwit-agent godwit-containers; journalctl -o cat -u godwit-agent | grep 'agent is up'",
        ),
      ),
    );
    expect(n1).toMatch(/^6\.1\./);
    expect(n2).toMatch(/^6\.12\./);
    for (const said of [n1, n2]) {
      expect(said).toContain("cgroup2fs\n");
      expect(said).toContain("active\nactive\n");
      expect(said).toContain('"cgroups":"v2"');
      // Debian's kernels mark written pages; the machine that this was written on does not.
      expect(said).toContain('"writeTracking":{"kind":"soft-dirty"}');
    }
  });

  test("redis moves there and back under load: one TCP connection, no wrong, repeated or lost answer", async () => {
    explain();
    const { client, id, address } = await startRedis();
    await using _client = client;
    for (const target of ["n2", "n1", "n2", "n1"]) {
      const source = target === "n1" ? "n2" : "n1";
      await client.mark();
      const move = await cluster.json<MoveRow>("move", "cache", target);
      expect(move).toMatchObject({ state: "finished", from: source, to: target, mode: "precopy" });
      expect(move.memoryBytes).toBeGreaterThan(MEGABYTES * 1024 * 1024);
      await until("answers after the move", async () => (await client.mark()).requests > 0, PATIENCE_MS);
      expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
      expect(await cluster.runningOn(id)).toEqual([target]);
      expect(await cluster.container("cache")).toMatchObject({ node: target, address, restarts: 0 });
      await until(
        `nothing left on ${source}`,
        async () => (await cluster.leftOn(source, id)) === "",
        PATIENCE_MS,
      );
      // The limits that were lifted for the restore hold again.
      expect(await cluster.cgroupFile(target, id, "memory.max")).toBe(String(128 * 1024 * 1024));
    }
    expect(await client.wrongKeys()).toBe(0);
  });

  test("a process tree keeps its pids, its output, its pipe and its file positions", async () => {
    explain();
    await cluster.must("run", "--node", "n1", "--memory", "64m", "tree", "redis", "--", "sh", "-c", TREE);
    const { id } = await cluster.container("tree");
    const numbers = async (): Promise<number[]> =>
      (await cluster.sh("tree", "cat /var/data/numbers")).trim().split("\n").map(Number);
    const children = async (): Promise<string[]> =>
      (await cluster.sh("tree", "cat /proc/1/task/1/children")).trim().split(" ").toSorted();
    await until("numbers in the file", async () => (await numbers()).length > 30, PATIENCE_MS);
    const before = await children();
    expect(before).toHaveLength(2);
    const countBefore = (await numbers()).length;
    for (const target of ["n2", "n1"]) {
      expect(await cluster.json<MoveRow>("move", "tree", target)).toMatchObject({ state: "finished" });
      expect(await cluster.runningOn(id)).toEqual([target]);
      expect(await children()).toEqual(before);
    }
    await until("more numbers", async () => (await numbers()).length > countBefore + 30, PATIENCE_MS);
    const after = await numbers();
    expect(after).toEqual(after.map((_, index) => index + 1));
    expect(await cluster.sh("tree", "cat /proc/1/fd/7")).toBe("kept\n");
    const lines = (await cluster.must("logs", "tree")).trim().split("\n");
    expect(lines).toEqual(lines.map((_, index) => `line ${(index + 1) * 25}`));
  });

  test("another user's container moves with CRIU as it is: these hosts have CAP_SYS_RESOURCE", async () => {
    explain();
    const name = "user";
    await cluster.must(
      "run",
      "--node",
      "n1",
      "-u",
      "redis",
      "-w",
      "/tmp",
      name,
      "redis",
      "--",
      "sleep",
      "1000",
    );
    for (const machine of cluster.machines) {
      expect(await machine.sh("ls /opt/godwit/tools/criu/lib")).not.toContain("godwit");
      const capabilities = await machine.sh(
        "sed -n 's/^CapEff:\\t//p' /proc/$(systemctl show -P MainPID godwit-agent)/status",
      );
      expect((BigInt(`0x${capabilities.trim()}`) >> CAP_SYS_RESOURCE) & 1n).toBe(1n);
    }
    expect(await cluster.json<MoveRow>("move", name, "n2")).toMatchObject({ state: "finished", to: "n2" });
    expect(await cluster.sh(name, "id -un; readlink /proc/1/cwd")).toBe("redis\n/tmp\n");
  });

  test("an agent that is killed or restarted by systemd while nothing moves is not noticed", async () => {
    explain();
    const { client, id } = await startRedis();
    await using _client = client;
    const ways = [
      "kill -9 $(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' /var/lib/godwit/state/agent.json)",
      "systemctl restart godwit-agent",
    ];
    for (const way of ways) {
      const pid = await cluster.agentPid("n1");
      await client.mark();
      await cluster.machine("n1").sh(way);
      await until("another agent", async () => (await cluster.agentPid("n1")) !== pid, PATIENCE_MS);
      await until("it to let commands in", () => cluster.sh("cache", "echo still here"), PATIENCE_MS);
      expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
      expect(await cluster.runningOn(id)).toEqual(["n1"]);
      expect(await cluster.container("cache")).toMatchObject({ node: "n1", state: "running", restarts: 0 });
    }
  });

  test.each([
    ["target's", "n2", "receiving"],
    ["source's", "n1", "frozen"],
  ])(
    "the %s agent is killed during a move: exactly one copy goes on with its connection",
    async (_, node, phase) => {
      explain();
      const { client, id } = await startRedis();
      await using _client = client;
      const { id: migration } = await cluster.startMove("cache", "n2");
      const pid = await cluster.agentPid(node);
      await cluster.watchMigration(migration, (info) => info.phase === phase);
      await cluster.machine(node).sh(`kill -9 ${pid}`);
      const ended = await cluster.watchMigration(migration, () => false);
      expect(["aborted", "finished"]).toContain(ended.state);
      const [home, other] = ended.state === "aborted" ? ["n1", "n2"] : ["n2", "n1"];
      await until(
        `one copy, on ${home}`,
        async () => (await cluster.runningOn(id)).join() === home,
        PATIENCE_MS,
      );
      await until("answers", async () => (await client.mark()).requests > 0, PATIENCE_MS);
      await until(
        `nothing left on ${other}`,
        async () => (await cluster.leftOn(other, id)) === "",
        PATIENCE_MS,
      );
      await until(
        "ps to say so",
        async () => (await cluster.container("cache")).state === "running",
        PATIENCE_MS,
      );
      expect(await cluster.runningOn(id)).toEqual([home]);
      expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
      expect(await client.wrongKeys()).toBe(0);
      expect(await cluster.container("cache")).toMatchObject({ node: home, restarts: 0 });
    },
  );

  test("a host is drained", async () => {
    explain();
    const { client, id } = await startRedis();
    await using _client = client;
    const result = await cluster.json<{ moved: unknown[]; failed: unknown[]; remaining: unknown[] }>(
      "node",
      "drain",
      "n1",
    );
    expect(result).toMatchObject({ failed: [], remaining: [] });
    expect(result.moved).toHaveLength(1);
    expect(await cluster.runningOn(id)).toEqual(["n2"]);
    expect(await client.mark()).toMatchObject({ connections: 1, wrong: 0, lost: 0, error: "" });
    await cluster.must("node", "uncordon", "n1");
  });
});
