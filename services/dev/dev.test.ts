import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { processStat, signalExactly } from "../../agent/native/process.ts";
import { listNodes } from "./api.ts";
import { leftovers } from "./fixture/leftovers.ts";
import { type DevCluster, devUp } from "./mod.ts";
import { waitFor } from "./wait.ts";

const agentMain = join(import.meta.dirname, "fixture/agent.ts");
const main = join(import.meta.dirname, "main.ts");
const links = (): string => execFileSync("ip", ["-o", "link"], { encoding: "utf8" });

let dataDir = "";
let linksBefore = "";
let cluster: DevCluster;
beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "gwdev-"));
  linksBefore = links();
  cluster = await devUp({ dataDir, nodes: 2, announce: false, agentMain, leaseMs: 5_000, snapshotEvery: 50 });
}, 120_000);
afterAll(async () => {
  await cluster?.down();
  const left = leftovers(dataDir);
  if (left.length > 0) throw new Error(`left behind: ${left.join("\n")}`);
}, 60_000);

const godwitDev = (...args: string[]) =>
  spawnSync(process.execPath, [main, ...args], { encoding: "utf8", timeout: 60_000 });

describe("a cluster on one machine", () => {
  test("is ready when up returns", async () => {
    const nodes = (await listNodes(cluster.api)) ?? [];
    expect(nodes.map(({ name, state, address }) => [name, state, address])).toEqual([
      ["n1", "ready", "10.77.0.11"],
      ["n2", "ready", "10.77.0.12"],
    ]);
    expect(nodes.every(({ leaseMs }) => leaseMs > 0 && leaseMs <= 5_000)).toBe(true);
  });

  test("gives each host its own name, network, /run, /sys and cgroup root", async () => {
    for (const { name, stateDir, cgroupDirs, shimPid } of cluster.nodes) {
      const probe = JSON.parse(readFileSync(join(stateDir, "probe"), "utf8")) as {
        hostname: string;
        cgroup: string;
      };
      expect(probe.hostname).toBe(name);
      expect(
        probe.cgroup
          .trim()
          .split("\n")
          .every((line) => /^\d+:[^:]*:\/(host)?$/.test(line)),
      ).toBe(true);
      for (const dir of cgroupDirs) {
        const pids = execFileSync("find", [dir, "-name", "cgroup.procs", "-exec", "cat", "{}", "+"], {
          encoding: "utf8",
        });
        expect(pids.split("\n")).toContain(String(shimPid()));
      }
      const { stdout } = await cluster.run(name, [
        "sh",
        "-c",
        "ls /run; ls /sys/class/net; hostname; cat /sys/class/net/eth0/mtu",
      ]);
      expect(stdout.split("\n").filter((line) => line !== "")).toEqual(["eth0", "lo", name, "9000"]);
    }
  });

  test("joins the hosts, and configures nothing in the machine's own network", async () => {
    const listen =
      'require("net").createServer(s=>s.end("from n2")).listen(7000,"10.77.0.12",()=>console.log("on"))';
    const server = cluster.exec("n2", [process.execPath, "-e", listen], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      await once(server.stdout ?? server, "data");
      const connect = 'require("net").connect(7000,"10.77.0.12").pipe(process.stdout)';
      expect(await cluster.run("n1", [process.execPath, "-e", connect])).toMatchObject({
        code: 0,
        stdout: "from n2",
      });
    } finally {
      server.kill("SIGKILL");
      await once(server, "exit");
    }
    expect(links()).toBe(linksBefore);
    const others = await cluster.run("n1", [
      process.execPath,
      "-e",
      'require("net").connect(4222,"127.0.0.1").on("error",e=>console.log(e.code))',
    ]);
    expect(others.stdout).toBe("ECONNREFUSED\n"); // nats-server listens on the hosts' network only
  });

  test("keeps secrets and logs to root", () => {
    for (const file of [
      "secrets/scheduler",
      "secrets/agent-n1",
      "nats.conf",
      "dev.json",
      "logs/n1.log",
      "logs/nats.log",
      "logs/api.log",
    ]) {
      expect([file, statSync(join(dataDir, file)).mode & 0o777]).toEqual([file, 0o600]);
    }
    expect(statSync(join(dataDir, "run")).mode & 0o777).toBe(0o700);
    expect(readFileSync(join(dataDir, "secrets/agent-n1"), "utf8")).not.toBe(
      readFileSync(join(dataDir, "secrets/agent-n2"), "utf8"),
    );
  });

  test("lets an agent do on NATS what it needs, and no more", async () => {
    const script = join(import.meta.dirname, "fixture/permissions.ts");
    const { stdout, stderr } = await cluster.run("n1", [
      process.execPath,
      script,
      join(dataDir, "hosts/n1/agent.json"),
    ]);
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({
      "publish godwit.report.n1": "allowed",
      "publish godwit.report.n2": "denied",
      "publish godwit.migration.0123456789abcdef.data": "allowed",
      "publish godwit.session.x": "allowed",
      "publish godwit.log": "denied",
      "publish godwit.events": "denied",
      "publish godwit.node.n2.desired": "denied",
      "publish $JS.API.STREAM.DELETE.GODWIT_LOG": "denied",
      "publish $JS.API.STREAM.PURGE.OBJ_godwit-images": "denied",
      "publish $O.godwit-images.C.x": "denied",
      "subscribe godwit.node.n1.>": "allowed",
      "subscribe godwit.migration.>": "allowed",
      "subscribe _INBOX.x.>": "allowed",
      "subscribe godwit.node.n2.>": "denied",
      "subscribe godwit.session.>": "denied",
      "subscribe godwit.log": "denied",
      "subscribe godwit.>": "denied",
      "read images": "allowed",
      "read snapshots": "denied",
    });
  });

  test("a second up of the same folder fails and changes nothing", async () => {
    const before = cluster.processes();
    const second = godwitDev("up", "--data", dataDir);
    expect(second).toMatchObject({ status: 1, stdout: "" });
    expect(second.stderr).toMatch(/^godwit dev: a cluster is up in .* stop it first with 'godwit dev down/);
    expect(cluster.processes()).toEqual(before);
    expect(before.every(({ lives }) => lives)).toBe(true);
  });

  test("status tells what runs", () => {
    const { status, stdout } = godwitDev("status", "--data", dataDir, "-o", "json");
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ dataDir, api: cluster.api, apiAnswers: true });
  });

  test("a killed agent is started again by its shim", async () => {
    const [node] = cluster.nodes;
    const pid = (await node?.agentPid()) ?? 0;
    signalExactly(pid, processStat(pid)?.startTicks ?? 0, "SIGKILL");
    const next = await waitFor(
      async () => ((await node?.agentPid()) === pid ? undefined : await node?.agentPid()),
      10_000,
      () => "no other agent",
    );
    expect(processStat(next)?.parentPid).toBe(node?.shimPid());
  });

  test("a killed shim leaves the host and its agent; another one takes over", async () => {
    const node = cluster.node("n2");
    const agent = await node.agentPid();
    const before = node.shimPid();
    await cluster.killShim("n2");
    expect(await cluster.run("n2", ["hostname"])).toMatchObject({ code: 0, stdout: "n2\n" });
    await cluster.startShim("n2");
    expect(await node.agentPid()).toBe(agent);
    expect(node.shimPid()).not.toBe(before);
    const { stdout } = await cluster.run("n2", ["sh", "-c", "hostname; cat /proc/self/cgroup"]);
    expect(
      stdout
        .trim()
        .split("\n")
        .slice(1)
        .every((line) => /:\/(host)?$/.test(line)),
    ).toBe(true);
    await expect(cluster.startShim("n2")).rejects.toThrow(/running already/);
  });

  test("the API and nats-server can be killed and started again", async () => {
    await cluster.killNats();
    await cluster.killApi();
    expect(await listNodes(cluster.api)).toBeUndefined();
    await cluster.startNats();
    await cluster.startApi();
    await expect(cluster.startApi()).rejects.toThrow(/running already/);
    expect((await listNodes(cluster.api))?.map(({ name }) => name)).toEqual(["n1", "n2"]);
  });

  test("start brings back all that has died, and up says so", async () => {
    await cluster.killApi();
    await cluster.killNats();
    await cluster.killShim("n2");
    expect(godwitDev("up", "--data", dataDir).stderr).toContain(`'godwit dev start --data ${dataDir}'`);
    expect(godwitDev("start", "--data", dataDir)).toMatchObject({ status: 0, stderr: "" });
    expect(cluster.processes().map(({ lives }) => lives)).toEqual([true, true, true, true]);
    expect(godwitDev("start", "--data", dataDir).stdout).toBe("Everything runs.\n");
    expect((await listNodes(cluster.api))?.map(({ name }) => name)).toEqual(["n1", "n2"]);
  });
});

test("help goes to standard output", () => {
  for (const args of [["--help"], ["up", "-h"]])
    expect(godwitDev(...args)).toMatchObject({
      status: 0,
      stdout: expect.stringContaining("godwit dev start") as string,
    });
});

describe("exec", () => {
  test.each([
    ["exit 0", 0],
    ["exit 42", 42],
  ])("%s passes its exit code through", (script, code) => {
    expect(godwitDev("exec", "--data", dataDir, "n1", "--", "sh", "-c", script).status).toBe(code);
  });

  test("a command may have options of the same names, and standard input", () => {
    const args = [
      "exec",
      "--data",
      dataDir,
      "n2",
      "--",
      "sh",
      "-c",
      'cat; echo " $*"',
      "sh",
      "--data",
      "--",
      "x",
    ];
    const result = spawnSync(process.execPath, [main, ...args], { encoding: "utf8", input: "in" });
    expect(result.stdout).toBe("in --data -- x\n");
  });

  test("the command has its pid, default signals and no descriptors of ours", async () => {
    const child = cluster.exec(
      "n1",
      // Without a pipeline or a pattern: the shell would hold descriptors of its own for those.
      [
        "sh",
        "-c",
        "echo $$; grep SigIgn /proc/self/status; n=0; while [ $n -lt 64 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done; true",
      ],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    let text = "";
    child.stdout?.on("data", (piece) => (text += String(piece)));
    await once(child, "close");
    expect(text).toBe(`${child.pid}\nSigIgn:\t0000000000000000\n0\n1\n2\n`);
  });

  test.each([
    [["exec", "n9", "--", "true"], 1, /no host is called 'n9'; there are n1 to n2/],
    [["exec", "n1", "--", "no-such-command"], 127, /no-such-command: not found on host n1/],
    [["exec", "n1"], 2, /usage/],
    [["exec"], 2, /usage/],
    [["up", "--nodes", "none"], 2, /--nodes must be a whole number/],
    [["up", "--wrong"], 2, /--wrong/],
    [["sideways"], 2, /usage/],
    [[], 2, /usage/],
  ])("%j ends with %i", (args, status, message) => {
    const [verb, ...rest] = args;
    const where = verb === "exec" || verb === "up" ? ["--data", dataDir] : [];
    const result = godwitDev(...(verb === undefined ? [] : [verb, ...where, ...rest]));
    expect(result.stderr).toMatch(message);
    expect(result.stderr.trim().split("\n")).toHaveLength(1);
    expect(result.status).toBe(status);
  });
});

describe("two clusters", () => {
  test("do not meet", async () => {
    const other = mkdtempSync(join(tmpdir(), "gwdev-"));
    await using second = await devUp({ dataDir: other, nodes: 1, announce: false, agentMain });
    expect(second.nodes.map(({ underlayAddress }) => underlayAddress)).toEqual(["10.77.0.11"]);
    expect((await listNodes(second.api))?.map(({ name }) => name)).toEqual(["n1"]);
    await second.down();
    expect(leftovers(other)).toEqual([]);
    expect((await listNodes(cluster.api))?.length).toBe(2);
    expect(cluster.processes().every(({ lives }) => lives)).toBe(true);
  }, 60_000);
});

test("a folder that is somebody's own is refused and never removed", async () => {
  const own = mkdtempSync(join(tmpdir(), "gwdev-"));
  try {
    writeFileSync(join(own, "thesis.txt"), "years of work");
    await expect(devUp({ dataDir: own, nodes: 1, announce: false, agentMain })).rejects.toMatchObject({
      code: "refused",
    });
    expect(godwitDev("down", "--data", own)).toMatchObject({
      status: 0,
      stdout: "There was nothing to remove.\n",
    });
    expect(readFileSync(join(own, "thesis.txt"), "utf8")).toBe("years of work");
  } finally {
    rmSync(own, { recursive: true });
  }
});
