import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { isAlive, processStat, signalExactly } from "../../agent/native/process.ts";
import { leftovers } from "./fixture/leftovers.ts";
import { DevCluster, devDown, devUp } from "./mod.ts";
import { readRecord, updateRecord } from "./record.ts";
import { waitFor } from "./wait.ts";

const agentMain = join(import.meta.dirname, "fixture/agent.ts");
const failing = join(import.meta.dirname, "fixture/silent.ts");

let dataDir = "";
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "gwdown-"));
});
afterEach(async () => {
  await devDown(dataDir);
  rmSync(dataDir, { recursive: true, force: true });
});

const up = (options: Partial<Parameters<typeof devUp>[0]> = {}): Promise<DevCluster> =>
  devUp({ dataDir, nodes: 1, announce: false, agentMain, ...options });

/** Starts `up` in a process of its own. */
function startUp(...stopAt: string[]): ChildProcess {
  return spawn(process.execPath, [join(import.meta.dirname, "fixture/up.ts"), dataDir, "2", ...stopAt], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

/** It stands still at this step when the answer comes. */
async function startUpTo(step: string): Promise<ChildProcess> {
  const child = startUp(step);
  const stopped = (): true | undefined => (processStat(child.pid ?? 0)?.state === "T" ? true : undefined);
  await waitFor(stopped, 60_000, () => `it did not get to '${step}'`);
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

describe("down", () => {
  test("removes all, also what is frozen, has left its session, or hides in a group of its own", async () => {
    const cluster = await up();
    const script = "for i in 1 2 3; do setsid sleep 1000 & done; echo $!; exec sleep 1000";
    const child = cluster.exec("n1", ["sh", "-c", script], { stdio: ["ignore", "pipe", "inherit"] });
    const pid = Number(String((await once(child.stdout ?? child, "data"))[0]));
    const freezer = cluster.nodes[0]?.cgroupDirs.find(
      (dir) => existsSync(join(dir, "freezer.state")) || existsSync(join(dir, "cgroup.freeze")),
    );
    const held = join(freezer ?? "", "held");
    mkdirSync(held);
    writeFileSync(join(held, "cgroup.procs"), String(pid));
    const file = existsSync(join(held, "freezer.state"))
      ? ["freezer.state", "FROZEN"]
      : ["cgroup.freeze", "1"];
    writeFileSync(join(held, file[0] ?? ""), file[1] ?? "");
    const removed = await cluster.down();
    expect(removed.join(", ")).toMatch(/\d+ processes, 2 network namespaces, \d+ cgroups, /);
    expect(processStat(pid)?.state ?? "Z").toBe("Z");
    expect(leftovers(dataDir)).toEqual([]);
    expect(await devDown(dataDir)).toEqual([]);
  });

  test("works when everything has died already, and so does up", async () => {
    const cluster = await up();
    const processes = Object.values(readRecord(dataDir)?.processes ?? {});
    const agent = (await cluster.nodes[0]?.agentPid()) ?? 0;
    const agentTicks = processStat(agent)?.startTicks ?? 0;
    for (const { pid, startTicks } of processes) signalExactly(pid, startTicks, "SIGKILL");
    signalExactly(agent, agentTicks, "SIGKILL");
    await waitFor(
      () => (processes.some((p) => isAlive(p.pid, p.startTicks)) ? undefined : true),
      10_000,
      () => "they live",
    );
    const steps: string[] = [];
    const again = await up({ onProgress: (step) => steps.push(step) });
    expect(steps[0]).toBe("removing what is left of a cluster that has died");
    await again.down();
    expect(leftovers(dataDir)).toEqual([]);
  });

  test("does not touch what has pids of before a restart of the machine", async () => {
    const cluster = await up();
    const [nats] = cluster.processes();
    // As if this process had got the pid that a host had before the machine was started anew.
    updateRecord(dataDir, (record) => ({
      ...record,
      bootId: "another",
      processes: { n1: { pid: process.pid, startTicks: processStat(process.pid)?.startTicks ?? 0 } },
    }));
    await devDown(dataDir);
    expect(processStat(nats?.pid ?? 0)?.state ?? "Z").toBe("Z");
    expect(leftovers(dataDir)).toEqual([]);
  });

  test("unmounts and detaches what is below the folder, and follows no link", async () => {
    const outside = mkdtempSync(join(tmpdir(), "gwoutside-"));
    writeFileSync(join(outside, "keep"), "");
    try {
      const cluster = await up();
      const target = join(dataDir, "hosts/n1/data/mounted");
      mkdirSync(target);
      execFileSync("mount", ["--bind", outside, target]);
      symlinkSync(outside, join(dataDir, "hosts/n1/data/link"));
      const file = join(dataDir, "hosts/n1/data/disk");
      writeFileSync(file, Buffer.alloc(1024 * 1024));
      execFileSync("losetup", ["--find", file]);
      expect((await cluster.down()).join(", ")).toContain("1 mount, 1 loop device");
      expect(leftovers(dataDir)).toEqual([]);
      expect(existsSync(join(outside, "keep"))).toBe(true);
    } finally {
      rmSync(outside, { recursive: true });
    }
  });

  test("finds a cluster whose folder was removed by hand", async () => {
    await up();
    rmSync(dataDir, { recursive: true });
    expect((await devDown(dataDir)).join(", ")).toMatch(/processes, 2 network namespaces, \d+ cgroups/);
    expect(leftovers(dataDir)).toEqual([]);
  });
});

describe("an up that does not get to its end", () => {
  test.each([
    "making the network",
    "starting nats-server",
    "starting the scheduler",
    "waiting for the nodes",
  ])("killed while %s: down removes what there is", async (step) => {
    const child = await startUpTo(step);
    const concurrent = await devDown(dataDir).catch((error: Error) => error.message);
    expect(String(concurrent)).toMatch(/is being started by process/);
    child.kill("SIGKILL");
    await once(child, "exit");
    await devDown(dataDir);
    expect(leftovers(dataDir)).toEqual([]);
  });

  test("killed at any moment: down removes what there is", async () => {
    for (const delayMs of [150, 400, 600, 800, 1_000, 1_300]) {
      const child = startUp();
      await sleep(delayMs);
      if (child.exitCode === null) await kill(child);
      await devDown(dataDir);
      // Killed before it had a marker, it has made a folder at most.
      expect([delayMs, leftovers(dataDir).filter((path) => path !== dataDir)]).toEqual([delayMs, []]);
    }
  });

  test("killed: the next up cleans up first", async () => {
    const child = await startUpTo("starting the scheduler");
    await kill(child);
    const steps: string[] = [];
    const cluster = await up({ onProgress: (step) => steps.push(step) });
    expect(steps[0]).toBe("removing what is left of a cluster that was never finished");
    expect(cluster.nodes).toHaveLength(1);
  });

  test("two at once: one wins, the other changes nothing", async () => {
    const results = await Promise.allSettled([up(), up()]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    const [failed] = results.filter((result) => result.status === "rejected");
    expect(String(failed?.reason)).toMatch(/taken by another|is just being started/);
    expect(
      DevCluster.open(dataDir)
        .processes()
        .every(({ lives }) => lives),
    ).toBe(true);
  });

  test("an API that ends at once: its last words, and nothing is left", async () => {
    await expect(up({ apiMain: failing })).rejects.toThrow(
      /the API has ended; its last words: fatal: the moon/,
    );
    expect(leftovers(dataDir)).toEqual([]);
  });

  test("stopped by its caller: nothing is left", async () => {
    const stop = new AbortController();
    const starting = up({
      agentMain: failing,
      signal: stop.signal,
      onProgress: (step) => {
        if (step.startsWith("waiting for the nodes")) setTimeout(() => stop.abort(), 200);
      },
    });
    await expect(starting).rejects.toMatchObject({ code: "cancelled" });
    expect(leftovers(dataDir)).toEqual([]);
  });
});
