import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { isAlive, processStat, signalExactly } from "../native/process.ts";
import { readExit } from "./container-table.ts";
import { nextExit, TestHost, until } from "./fixture/host.ts";

let host: TestHost;
beforeEach(() => {
  host = new TestHost();
});
afterEach(() => host[Symbol.asyncDispose]());

describe("the shim and its agent", () => {
  test("an agent that exits is started again, each time after a longer pause", async () => {
    host.startShim({ exitAtOnce: true });
    await until("three starts", () => host.output.split("fixture agent").length > 3);
    expect(host.output).toMatch(/exited with 9; starting it again in 500 ms[^]*again in 1000 ms/);
  });

  test("a killed agent comes back, and its containers and their logs do not notice", async () => {
    host.startShim();
    const shim = await host.client();
    const init = await host.shell("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done");
    await host.attach(shim, "c1", init);
    await until("lines", async () => (await host.logged("c1")).length > 5);
    const agent = await until("the agent's record", () => host.agentRecord());
    signalExactly(agent.pid, agent.startTicks, "SIGKILL");
    const next = await until("another agent", () => {
      const record = host.agentRecord();
      return record?.pid === agent.pid ? undefined : record;
    });
    const seen = (await host.logged("c1")).length;
    await until("more lines", async () => (await host.logged("c1")).length > seen + 10);
    expect(isAlive(init.pid, init.startTicks)).toBe(true);
    expect(processStat(next.pid)?.parentPid).toBe(processStat(init.pid)?.parentPid);
    const lines = await host.logged("c1");
    expect(lines).toEqual(lines.map((_, i) => `o line ${i + 1}`));
  });

  test("SIGTERM ends agent and shim; the container goes on, and the next shim loses no line", async () => {
    const first = host.startShim();
    const init = await host.shell(
      "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.01; done; printf end; exit 5",
    );
    const shim = await host.client();
    await host.attach(shim, "c1", init);
    await until("lines", async () => (await host.logged("c1")).length > 5);
    const agent = await until("the agent's record", () => host.agentRecord());
    first.kill("SIGTERM");
    await once(first, "exit");
    expect(isAlive(agent.pid, agent.startTicks)).toBe(false);
    expect(isAlive(init.pid, init.startTicks)).toBe(true);
    const holder = JSON.parse(readFileSync(join(host.stateDir, "handover.json"), "utf8")) as {
      holder: { pid: number; startTicks: number };
    };
    host.startShim();
    const again = await host.client();
    await until("the whole log", async () => (await host.logged("c1")).length === 301, 20_000);
    expect(await host.logged("c1")).toEqual([
      ...Array.from({ length: 300 }, (_, i) => `o line ${i + 1}`),
      "o end",
    ]);
    expect(isAlive(holder.holder.pid, holder.holder.startTicks)).toBe(false);
    // The container is no child of the second shim: that it ended is noticed, how may not be.
    expect((await nextExit(again)).initPid).toBe(init.pid);
  });

  test("a killed shim: the next one adopts its agent, and takes what the agent attaches again", async () => {
    const first = host.startShim();
    const shim = await host.client();
    const init = await host.shell("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.01; done");
    await host.attach(shim, "c1", init);
    const agent = await until("the agent's record", () => host.agentRecord());
    await until("lines", async () => (await host.logged("c1")).length > 5);
    first.kill("SIGKILL");
    await once(first, "exit");
    host.startShim();
    await until("the same client, connected again", () =>
      shim.status().then(
        (containers) => containers.length === 0,
        () => false,
      ),
    );
    let isRead = false;
    const read = shim.reads("c1", AbortSignal.timeout(30_000)).then(() => (isRead = true));
    await shim.status();
    expect(isRead).toBe(false);
    await host.attach(shim, "c1", {
      ...init,
      stdout: `/proc/${init.pid}/fd/1`,
      stderr: `/proc/${init.pid}/fd/2`,
    });
    await read;
    await until("the whole log", async () => (await host.logged("c1")).length >= 300);
    expect(await host.logged("c1")).toEqual(Array.from({ length: 300 }, (_, i) => `o line ${i + 1}`));
    expect(host.agentRecord()).toEqual(agent);
    expect(isAlive(agent.pid, agent.startTicks)).toBe(true);
  });

  test("a second shim for the same folder refuses to start", async () => {
    host.startShim();
    await host.client();
    const second = host.startShim();
    expect(await once(second, "exit")).toEqual([1, null]);
    expect(host.output).toContain("another shim is running");
  });
});

describe("exits", () => {
  test.each([
    ["exit 0", 0, 0],
    ["exit 42", 42, 0],
    ["kill -TERM $$", 143, 15],
  ])("%s is recorded as code %i, signal %i", async (script, code, signal) => {
    host.startShim();
    const shim = await host.client();
    const init = await host.shell(`sleep 0.2; echo bye; ${script}`);
    await host.attach(shim, "c1", init);
    const exit = await nextExit(shim);
    expect(exit).toMatchObject({ event: "exit", container: "c1", initPid: init.pid, code, signal });
    expect(readExit(host.logDir("c1"))).toMatchObject({
      initPid: init.pid,
      startTicks: init.startTicks,
      code,
      signal,
    });
    expect((await shim.status())[0]).toMatchObject({
      container: "c1",
      initPid: init.pid,
      exit: { code, signal },
    });
    expect(await host.logged("c1")).toEqual(["o bye"]);
    expect(processStat(init.pid)).toBeUndefined();
  });

  test("an init that was reaped before anyone said what it is", async () => {
    host.startShim();
    const shim = await host.client();
    // It must have become the shim's own child before it ends, or another parent reaps it.
    const init = await host.shell("sleep 0.5; exit 7");
    await until("its end", () => processStat(init.pid) === undefined);
    await shim.attach({
      container: "c1",
      dir: host.logDir("c1"),
      initPid: 0,
      stdout: init.stdout,
      stderr: init.stderr,
    });
    await shim.setInit({ container: "c1", initPid: init.pid });
    expect(await nextExit(shim)).toMatchObject({ container: "c1", code: 7 });
  });

  test("a client that comes later is told too, and a detached container no more", async () => {
    host.startShim();
    const shim = await host.client();
    await host.attach(shim, "c1", await host.shell("sleep 0.2; exit 3"));
    await nextExit(shim);
    expect(await nextExit(await host.client())).toMatchObject({ container: "c1", code: 3 });
    await shim.detach("c1");
    expect(await shim.status()).toEqual([]);
  });

  test("orphans of a tree of processes are reaped", async () => {
    host.startShim();
    const shim = await host.client();
    await host.attach(
      shim,
      "c1",
      await host.shell("for i in 1 2 3; do (sleep 0.1 & echo $!; sleep 0.05 & echo $!); done; exit 1"),
    );
    await nextExit(shim);
    const pids = await until("the pids", async () => {
      const lines = await host.logged("c1");
      return lines.length === 6 ? lines.map((line) => Number(line.slice(2))) : undefined;
    });
    await until("the ends of all", () => pids.every((pid) => processStat(pid) === undefined));
    expect(new Set(pids).size).toBe(6);
  });
});
