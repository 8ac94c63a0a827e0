/** Hosts that vanish, and hosts that are cut off: one copy runs, or none, and never two. */
import { execFile } from "node:child_process";
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { cutOff } from "../faults/partition.ts";
import { signal } from "../faults/faults.ts";
import { CONTROL_ADDRESS, netnsPrefix } from "../../services/dev/plan.ts";
import { type ContainerRow, REDIS_COMMAND, TestCluster, until } from "./cluster.ts";

const run = promisify(execFile);
const LEASE_MS = 3_000;
/** The lease, the margin of a third of it, and a start: some 6 s, and far more on a machine that does much else. */
const ELSEWHERE_WITHIN_MS = 60_000;
/** Lua: so many bytes of redis's memory, and how much of that is not what it was. */
const FILLED_BYTES = 5_000 * 4_000;
const FILL = `for i = 1, 5000 do redis.call("set", "k" .. i, string.rep(string.format("%08d", i), 500)) end`;
const WRONG = `local n = 0; for i = 1, 5000 do if redis.call("get", "k" .. i) ~= string.rep(string.format("%08d", i), 500) then n = n + 1 end end return n`;
const COUNTER = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.02; done"];

/** Regular files of that name below a folder. */
const filesNamed = (folder: string, name: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.name === name && entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

describe("lost hosts", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3, { leaseMs: LEASE_MS });
    await until("the fences to be armed", async () => {
      const nodes = await cluster.json<{ fence: string }[]>("node", "ls");
      return nodes.every(({ fence }) => fence === "armed");
    });
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const row = async (name: string): Promise<ContainerRow> => await cluster.container(name);
  const idOf = async (name: string): Promise<string> => (await row(name)).id;
  /** What the copy on this host has counted to; it can be read while it stands still. */
  const count = (node: string, id: string): number => {
    const file = join(cluster.dev.node(node).dataDir, "containers", id, "upper/count");
    return existsSync(file) ? Number(readFileSync(file, "utf8")) || 0 : 0;
  };
  const pidsBelow = (folder: string): number[] =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      if (entry.isDirectory()) return pidsBelow(join(folder, entry.name));
      if (entry.name !== "cgroup.procs") return [];
      return readFileSync(join(folder, entry.name), "utf8").split("\n").filter(Boolean).map(Number);
    });

  test("an agent that dies alone changes nothing", async () => {
    await cluster.must("run", "--node", "n1", "steady", "redis", "--", ...COUNTER);
    const id = await idOf("steady");
    const { pid } = JSON.parse(readFileSync(join(cluster.dev.node("n1").stateDir, "agent.json"), "utf8")) as {
      pid: number;
    };
    signal(pid, "SIGKILL");
    const before = count("n1", id);
    await until("another agent to report", async () => {
      const { pid: now } = JSON.parse(
        readFileSync(join(cluster.dev.node("n1").stateDir, "agent.json"), "utf8"),
      ) as { pid: number };
      const nodes = await cluster.json<{ name: string; state: string; lease: number }[]>("node", "ls");
      const n1 = nodes.find(({ name }) => name === "n1");
      return now !== pid && n1?.state === "ready" && n1.lease > LEASE_MS / 2;
    });
    expect(await row("steady")).toMatchObject({ node: "n1", state: "running", epoch: 1, restarts: 0 });
    await until("it to count on", () => count("n1", id) > before + 10);
  });

  test("a host that is cut off stops its containers before they are started elsewhere, and goes on if it is back in time", async () => {
    await cluster.must("run", "--node", "n2", "--failover", "never", "waiting", "redis", "--", ...COUNTER);
    await cluster.must("run", "--node", "n2", "moving", "redis", "--", ...COUNTER);
    const [waiting, moving] = [await idOf("waiting"), await idOf("moving")];
    const others = ["n1", "n3"];
    {
      await using _ = await cutOff(cluster, "n2", [
        CONTROL_ADDRESS,
        ...others.map((name) => cluster.dev.node(name).underlayAddress),
      ]);
      let seenRunning: string[] = [];
      const elsewhere = await until(
        "it to run elsewhere",
        async () => {
          const running = cluster.runningOn(moving);
          if (running.length > 1) throw new Error(`two copies run: ${running.join()}`);
          seenRunning = [...new Set([...seenRunning, ...running])];
          const now = await row("moving");
          return now.state === "running" && now.node !== "n2" ? now.node : undefined;
        },
        ELSEWHERE_WITHIN_MS,
      );
      expect(seenRunning.filter((node) => node !== "n2" && node !== elsewhere)).toEqual([]);
      // The first copy ended to count before the second began, and counts no more.
      const last = count("n2", moving);
      await until("the second to count", () => count(elsewhere, moving) > 10);
      expect(count("n2", moving)).toBe(last);
      expect(cluster.runningOn(waiting)).toEqual([]);
      expect(await row("waiting")).toMatchObject({ node: "n2", state: "lost", epoch: 1 });
    }
    await until("the old copy to be removed", () => !cluster.isKnownOn("n2", moving));
    const stood = count("n2", waiting);
    await until("the other one to go on", () => count("n2", waiting) > stood);
    await until("ps to say so", async () => (await row("waiting")).state === "running");
    expect(await row("moving")).toMatchObject({ epoch: 2, state: "running" });
    await cluster.must("rm", "--force", "waiting");
  });

  interface CheckpointRow {
    readonly id: string;
    readonly state: string;
    readonly at: string;
    readonly keepers: string[];
    readonly blackoutMs: number;
    readonly sizeBytes: number;
    readonly wholeBytes: number;
    readonly base: string | null;
  }

  test("a container goes on from a checkpoint and what that builds upon: memory and files of that moment, connections closed", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "128m", "store", "redis", "--", ...REDIS_COMMAND);
    const redis = (...words: string[]): Promise<string> =>
      cluster.must("exec", "store", "--", "redis-cli", ...words);
    const inside = (script: string): Promise<string> =>
      cluster.must("exec", "store", "--", "sh", "-c", script);
    const kept = (node: string): string[] => readdirSync(join(cluster.dev.node(node).dataDir, "checkpoints"));
    await redis("eval", FILL, "0");
    await redis("mset", "early", "then", "moment", "then");
    await inside("echo then >/early; echo then >/moment; echo then >/gone");
    const taken = await cluster.json<CheckpointRow>("checkpoint", "create", "store");
    expect(taken).toMatchObject({ state: "stored", keepers: ["n2", "n3"], base: null });
    expect(taken.blackoutMs).toBeGreaterThan(0);
    // It has gone on as if nothing had happened.
    expect(await row("store")).toMatchObject({ node: "n1", state: "running", epoch: 1, restarts: 0 });
    await redis("set", "moment", "later");
    await inside("echo later >/moment; rm /gone");
    const second = await cluster.json<CheckpointRow>("checkpoint", "create", "store");
    expect(second).toMatchObject({ state: "stored", keepers: ["n2", "n3"], base: taken.id });
    expect(second.sizeBytes).toBeLessThan(taken.sizeBytes / 3);
    expect(second.wholeBytes).toBeGreaterThan(FILLED_BYTES);
    await redis("set", "moment", "latest");
    await inside("echo latest >/moment");
    const early = await cluster.cli(["checkpoint", "restore", second.id]);
    expect([early.code, early.stderr]).toEqual([3, expect.stringMatching(/godwit stop store/)]);
    await cluster.must("stop", "store");
    // It is out of sight, and kept for the one that builds upon it.
    await cluster.must("checkpoint", "rm", taken.id);
    const listed = await cluster.json<CheckpointRow[]>("checkpoint", "ls", "store");
    expect(listed.map(({ id }) => id)).toEqual([second.id]);
    expect(kept("n2").toSorted()).toEqual([taken.id, second.id].map((id) => `${id}.checkpoint`).toSorted());
    await cluster.must("checkpoint", "restore", second.id, "--node", "n2");
    await until("it to run", async () => (await row("store")).state === "running");
    expect(await row("store")).toMatchObject({ node: "n2", epoch: 2 });
    expect((await redis("mget", "early", "moment")).trim().split(/\s+/)).toEqual(["then", "later"]);
    expect((await redis("eval", WRONG, "0")).trim()).toBe("0");
    expect((await inside("cat /early /moment; ls /gone 2>/dev/null || echo gone")).trim()).toBe(
      "then\nlater\ngone",
    );
    await until(
      "the copy that was stopped to be gone",
      async () => !cluster.isKnownOn("n1", await idOf("store")),
    );
    await cluster.must("rm", "--force", "store");
    await until("nothing to be kept", () => ["n1", "n2", "n3"].every((node) => kept(node).length === 0));
  });

  test("one whose memory cannot be restored goes on with its files of then", async () => {
    const program =
      "[ -e /born ] || cat /proc/sys/kernel/random/uuid >/born; exec 5</etc/group; while :; do sleep 0.1; done";
    await cluster.must(
      "run",
      "--node",
      "n1",
      "--stop-signal",
      "KILL",
      "odd",
      "redis",
      "--",
      "sh",
      "-c",
      program,
    );
    const born = async (): Promise<string> => await cluster.must("exec", "odd", "--", "cat", "/born");
    const before = await until("its file", async () => {
      const found = await cluster.cli(["exec", "odd", "--", "cat", "/born"]);
      return found.code === 0 && found.stdout !== "" ? found.stdout : undefined;
    });
    const taken = await cluster.json<CheckpointRow>("checkpoint", "create", "odd");
    expect(taken.keepers).toContain("n2");
    await cluster.must("stop", "odd");
    // So that its image is there.
    await cluster.must("run", "--node", "n2", "other", "redis", "--", "sleep", "1000");
    await cluster.must("rm", "--force", "other");
    // What its program has open is of another size there, which CRIU refuses.
    const opened = filesNamed(join(cluster.dev.node("n2").dataDir, "images"), "group");
    expect(opened).toHaveLength(1);
    appendFileSync(opened[0] ?? "", "more:x:1234:\n");
    await cluster.must("checkpoint", "restore", taken.id, "--node", "n2");
    const said = await until("why its memory is lost", async () => {
      const { message } = await row("odd");
      return /checkpoint/.test(message) ? message : undefined;
    });
    expect(said).toMatch(
      /^it is started with its files of then alone: checkpoint \w+ could not be restored: .*size/,
    );
    await until("it to run", async () => (await row("odd")).state === "running");
    expect(await row("odd")).toMatchObject({ node: "n2", epoch: 2, restarts: 1 });
    expect(await born()).toBe(before);
    await cluster.must("rm", "--force", "odd");
  });

  test("everything of a host that vanishes runs elsewhere, what has checkpoints with its memory", async () => {
    const names = ["one", "two", "cache"];
    await cluster.must(
      ...["run", "--node", "n3", "--memory", "128m", "--checkpoint-every", "5s", "cache", "redis", "--"],
      ...REDIS_COMMAND,
    );
    const cache = (...words: string[]): Promise<string> =>
      cluster.must("exec", "cache", "--", "redis-cli", ...words);
    await cache("eval", FILL, "0");
    /** The first that holds what was there when it was asked for. */
    const taken = async (isWanted: (one: CheckpointRow) => boolean): Promise<CheckpointRow> => {
      const askedAtMs = Date.now();
      return await until("a checkpoint with it", async () => {
        const rows = await cluster.json<CheckpointRow[]>("checkpoint", "ls", "cache");
        const fresh = rows.filter(({ at, state }) => state === "stored" && Date.parse(at) > askedAtMs);
        return fresh.find(isWanted);
      });
    };
    await taken(() => true);
    await cache("set", "moment", "then");
    for (const name of ["one", "two"])
      await cluster.must("run", "--node", "n3", name, "redis", "--", ...COUNTER);
    const last = await taken(({ base }) => base !== null);
    expect(last.sizeBytes).toBeLessThan(last.wholeBytes / 3);
    const { netns, cgroupDirs } = cluster.dev.node("n3");
    await run("ip", [
      "-netns",
      `${netns.slice(0, netnsPrefix("").length + 6)}ctl`,
      "link",
      "set",
      "to-n3",
      "down",
    ]);
    const vanishedAt = performance.now();
    signal(cluster.dev.node("n3").shimPid(), "SIGKILL");
    await until("n3 to be dead", () => {
      const pids = pidsBelow(cgroupDirs[0] ?? "");
      for (const pid of pids) signal(pid, "SIGKILL");
      for (const one of cgroupDirs) {
        const freezer = join(one, "godwit/freezer.state");
        if (existsSync(freezer)) writeFileSync(freezer, "THAWED");
      }
      return pids.length === 0;
    });
    await until(
      "all to run elsewhere",
      async () => {
        const rows = await cluster.json<ContainerRow[]>("ps");
        return names.every((name) =>
          rows.some((one) => one.name === name && one.node !== "n3" && one.state === "running"),
        );
      },
      ELSEWHERE_WITHIN_MS,
    );
    expect((await cache("get", "moment")).trim()).toBe("then");
    expect((await cache("eval", WRONG, "0")).trim()).toBe("0");
    process.stderr.write(`everything was back after ${Math.round(performance.now() - vanishedAt)} ms\n`);
    const events = await cluster.json<{ kind: string; subject: string }[]>("events");
    for (const name of names)
      expect(events.some(({ kind, subject }) => kind === "container.failed-over" && subject === name)).toBe(
        true,
      );
  });
});
