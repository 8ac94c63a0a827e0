import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { isAlive, processStat, signalExactly } from "../native/process.ts";
import { ShimClient } from "./client.ts";
import { readExit } from "./container-table.ts";
import { readLog } from "./log-store.ts";
import type { ExitEvent } from "./protocol.ts";

interface Started {
  readonly pid: number;
  readonly startTicks: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function until<T>(
  what: string,
  probe: () => T | Promise<T>,
  timeoutMs = 10_000,
): Promise<NonNullable<T>> {
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== null && value !== false) return value;
    if (Date.now() > endMs) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

let stateDir = "";
let cleanUp: AsyncDisposableStack;
let shimOutput = "";
const shims: ChildProcess[] = [];

beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "godwit-shim-"));
  shimOutput = "";
  cleanUp = new AsyncDisposableStack();
  cleanUp.defer(() => rmSync(stateDir, { recursive: true }));
});
afterEach(async () => {
  for (const shim of shims.splice(0)) {
    if (shim.exitCode !== null || shim.signalCode !== null) continue;
    shim.kill("SIGKILL");
    await once(shim, "exit");
  }
  const agent = agentRecord();
  if (agent !== undefined) signalExactly(agent.pid, agent.startTicks, "SIGKILL");
  await cleanUp.disposeAsync();
});

function startShim(config: object = {}): ChildProcess {
  const configPath = join(stateDir, "agent-config.json");
  writeFileSync(configPath, JSON.stringify({ stateDir, ...config }));
  const main = join(import.meta.dirname, "main.ts");
  const agent = join(import.meta.dirname, "fixture/agent.ts");
  const flags = ["--max-old-space-size=32", "--max-semi-space-size=1"];
  const shim = spawn(process.execPath, [...flags, main, "--config", configPath, "--agent", agent], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  shims.push(shim);
  for (const stream of [shim.stdout, shim.stderr])
    stream.on("data", (text: Buffer) => (shimOutput += text.toString()));
  return shim;
}

async function client(): Promise<ShimClient> {
  const connected = await ShimClient.connect(join(stateDir, "shim.sock"), AbortSignal.timeout(30_000));
  return cleanUp.use(connected);
}

function agentRecord(): { pid: number; startTicks: number } | undefined {
  try {
    return JSON.parse(readFileSync(join(stateDir, "agent.json"), "utf8")) as {
      pid: number;
      startTicks: number;
    };
  } catch {
    return undefined;
  }
}

/** Starts a process as a container's init: orphaned, its output in pipes that the agent holds. */
async function startInit(...argv: string[]): Promise<Started> {
  const answer = await until("the fixture agent", async () => {
    const socket = connect(join(stateDir, "fixture.sock"));
    try {
      await once(socket, "connect");
    } catch {
      return undefined;
    }
    socket.write(JSON.stringify({ argv }));
    let text = "";
    for await (const piece of socket) text += String(piece);
    return text;
  });
  const started = JSON.parse(answer) as Started;
  cleanUp.defer(() => void signalExactly(started.pid, started.startTicks, "SIGKILL"));
  return started;
}

const logDir = (container: string): string => join(stateDir, "logs", container);
const shell = (script: string): Promise<Started> => startInit("sh", "-c", script);

async function attach(shim: ShimClient, container: string, init: Started): Promise<void> {
  await shim.attach({
    container,
    dir: logDir(container),
    initPid: init.pid,
    startTicks: init.startTicks,
    stdout: init.stdout,
    stderr: init.stderr,
  });
}

async function logged(container: string): Promise<string[]> {
  const lines: string[] = [];
  for (let at = 0; ;) {
    const { offset, data } = await readLog(logDir(container), at, 1024 * 1024);
    if (data.length === 0) return lines;
    for (const line of data.toString().split("\n").slice(0, -1)) lines.push(`${line[0]} ${line.slice(27)}`);
    at = offset + data.length;
  }
}

async function nextExit(shim: ShimClient): Promise<ExitEvent> {
  for await (const exit of shim.exits) return exit;
  throw new Error("the client ended");
}

describe("the shim and its agent", () => {
  test("an agent that exits is started again, each time after a longer pause", async () => {
    startShim({ exitAtOnce: true });
    await until("three starts", () => shimOutput.split("fixture agent").length > 3);
    expect(shimOutput).toMatch(/exited with 9; starting it again in 500 ms[^]*again in 1000 ms/);
  });

  test("a killed agent comes back, and its containers and their logs do not notice", async () => {
    startShim();
    const shim = await client();
    const init = await shell("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done");
    await attach(shim, "c1", init);
    await until("lines", async () => (await logged("c1")).length > 5);
    const agent = await until("the agent's record", agentRecord);
    signalExactly(agent.pid, agent.startTicks, "SIGKILL");
    const next = await until("another agent", () => {
      const record = agentRecord();
      return record?.pid === agent.pid ? undefined : record;
    });
    const seen = (await logged("c1")).length;
    await until("more lines", async () => (await logged("c1")).length > seen + 10);
    expect(isAlive(init.pid, init.startTicks)).toBe(true);
    expect(processStat(next.pid)?.parentPid).toBe(processStat(init.pid)?.parentPid);
    const lines = await logged("c1");
    expect(lines).toEqual(lines.map((_, i) => `o line ${i + 1}`));
  });

  test("SIGTERM ends agent and shim; the container goes on, and the next shim loses no line", async () => {
    const first = startShim();
    const init = await shell(
      "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.01; done; printf end; exit 5",
    );
    const shim = await client();
    await attach(shim, "c1", init);
    await until("lines", async () => (await logged("c1")).length > 5);
    const agent = await until("the agent's record", agentRecord);
    first.kill("SIGTERM");
    await once(first, "exit");
    expect(isAlive(agent.pid, agent.startTicks)).toBe(false);
    expect(isAlive(init.pid, init.startTicks)).toBe(true);
    const holder = JSON.parse(readFileSync(join(stateDir, "handover.json"), "utf8")) as {
      holder: { pid: number; startTicks: number };
    };
    startShim();
    const again = await client();
    await until("the whole log", async () => (await logged("c1")).length === 301, 20_000);
    expect(await logged("c1")).toEqual([
      ...Array.from({ length: 300 }, (_, i) => `o line ${i + 1}`),
      "o end",
    ]);
    expect(isAlive(holder.holder.pid, holder.holder.startTicks)).toBe(false);
    // The container is no child of the second shim: that it ended is noticed, how may not be.
    expect((await nextExit(again)).initPid).toBe(init.pid);
  });

  test("a killed shim: the next one adopts its agent, and takes what the agent attaches again", async () => {
    const first = startShim();
    const shim = await client();
    const init = await shell("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.01; done");
    await attach(shim, "c1", init);
    const agent = await until("the agent's record", agentRecord);
    await until("lines", async () => (await logged("c1")).length > 5);
    first.kill("SIGKILL");
    await once(first, "exit");
    startShim();
    await until("the same client, connected again", () =>
      shim.status().then(
        (containers) => containers.length === 0,
        () => false,
      ),
    );
    await attach(shim, "c1", { ...init, stdout: `/proc/${init.pid}/fd/1`, stderr: `/proc/${init.pid}/fd/2` });
    await until("the whole log", async () => (await logged("c1")).length >= 300);
    expect(await logged("c1")).toEqual(Array.from({ length: 300 }, (_, i) => `o line ${i + 1}`));
    expect(agentRecord()).toEqual(agent);
    expect(isAlive(agent.pid, agent.startTicks)).toBe(true);
  });

  test("a second shim for the same folder refuses to start", async () => {
    startShim();
    await client();
    const second = startShim();
    expect(await once(second, "exit")).toEqual([1, null]);
    expect(shimOutput).toContain("another shim is running");
  });
});

describe("exits", () => {
  test.each([
    ["exit 0", 0, 0],
    ["exit 42", 42, 0],
    ["kill -TERM $$", 143, 15],
  ])("%s is recorded as code %i, signal %i", async (script, code, signal) => {
    startShim();
    const shim = await client();
    const init = await shell(`sleep 0.2; echo bye; ${script}`);
    await attach(shim, "c1", init);
    const exit = await nextExit(shim);
    expect(exit).toMatchObject({ event: "exit", container: "c1", initPid: init.pid, code, signal });
    expect(readExit(logDir("c1"))).toMatchObject({
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
    expect(await logged("c1")).toEqual(["o bye"]);
    expect(processStat(init.pid)).toBeUndefined();
  });

  test("an init that was reaped before anyone said what it is", async () => {
    startShim();
    const shim = await client();
    const init = await shell("exit 7");
    await until("its end", () => processStat(init.pid) === undefined);
    await shim.attach({
      container: "c1",
      dir: logDir("c1"),
      initPid: 0,
      stdout: init.stdout,
      stderr: init.stderr,
    });
    await shim.setInit({ container: "c1", initPid: init.pid });
    expect(await nextExit(shim)).toMatchObject({ container: "c1", code: 7 });
  });

  test("a client that comes later is told too, and a detached container no more", async () => {
    startShim();
    const shim = await client();
    await attach(shim, "c1", await shell("exit 3"));
    await nextExit(shim);
    expect(await nextExit(await client())).toMatchObject({ container: "c1", code: 3 });
    await shim.detach("c1");
    expect(await shim.status()).toEqual([]);
  });

  test("orphans of a tree of processes are reaped", async () => {
    startShim();
    const shim = await client();
    await attach(
      shim,
      "c1",
      await shell("for i in 1 2 3; do (sleep 0.1 & echo $!; sleep 0.05 & echo $!); done; exit 1"),
    );
    await nextExit(shim);
    const pids = await until("the pids", async () => {
      const lines = await logged("c1");
      return lines.length === 6 ? lines.map((line) => Number(line.slice(2))) : undefined;
    });
    await until("the ends of all", () => pids.every((pid) => processStat(pid) === undefined));
  });
});

describe("output", () => {
  test("an unfinished line is handed over at detach and goes on at attach", async () => {
    startShim();
    const shim = await client();
    const trigger = join(stateDir, "go");
    const init = await shell(
      `echo whole; printf half; printf oops >&2; while ! [ -e ${trigger} ]; do sleep 0.02; done; echo ' more'`,
    );
    await attach(shim, "c1", init);
    await until("the first line", async () => (await logged("c1")).length === 1);
    const detached = await until("both halves", async () => {
      const answer = await shim.detach("c1");
      if (answer.partial.e !== "") return answer;
      await attach(shim, "c1", init); // nothing said about partial lines: the shim's own memory serves
      return undefined;
    });
    expect(Buffer.from(detached.partial.o, "base64").toString()).toBe("half");
    expect(await shim.detach("c1")).toEqual(detached); // an agent that died before it read the answer
    expect(detached.offset).toBe(statSync(join(logDir("c1"), "log.current")).size);
    const { stdout, stderr } = init;
    const { offset } = await shim.attach({
      container: "c1",
      dir: logDir("c1"),
      initPid: init.pid,
      stdout,
      stderr,
      ...detached,
    });
    expect(offset).toBe(detached.offset);
    writeFileSync(trigger, "");
    await nextExit(shim);
    await until("all lines", async () => (await logged("c1")).length === 3);
    expect((await logged("c1")).toSorted()).toEqual(["e oops", "o half more", "o whole"]);
  });

  test("attaching twice reads once", async () => {
    startShim();
    const shim = await client();
    const init = await shell("sleep 0.3; for i in 1 2 3; do echo $i; done");
    await attach(shim, "c1", init);
    await attach(shim, "c1", init);
    await nextExit(shim);
    await until("the lines", async () => (await logged("c1")).length === 3);
  });

  test("standard output and error on one pipe", async () => {
    startShim();
    const shim = await client();
    const init = await shell("exec 2>&1; sleep 0.3; for i in 1 2 3 4; do echo o$i; echo e$i >&2; done");
    await until(
      "2>&1",
      () => existsSync(init.stdout) && statSync(`/proc/${init.pid}/fd/2`).ino === statSync(init.stdout).ino,
    );
    await attach(shim, "c1", { ...init, stderr: `/proc/${init.pid}/fd/2` });
    await nextExit(shim);
    await until("the lines", async () => (await logged("c1")).length === 8);
    expect(await logged("c1")).toEqual([1, 2, 3, 4].flatMap((i) => [`o o${i}`, `o e${i}`]));
  });

  test("a hundred thousand lines a second, none lost, memory flat", async () => {
    const process_ = startShim();
    const shim = await client();
    // 150,000 lines of 9 bytes go at whatever speed the reader takes them.
    const init = await shell("sleep 0.2; seq -f %08.0f 1 150000");
    await attach(shim, "c1", init);
    const startedMs = Date.now();
    await nextExit(shim);
    const tookMs = Date.now() - startedMs;
    const status = readFileSync(`/proc/${process_.pid}/status`, "utf8");
    const peakKiB = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]);
    await until("the end of the log", async () => (await logged("c1")).length === 150_000, 30_000);
    const lines = await logged("c1");
    expect(lines.every((line, i) => line === `o ${String(i + 1).padStart(8, "0")}`)).toBe(true);
    expect(peakKiB).toBeLessThan(120 * 1024);
    expect(tookMs).toBeLessThan(20_000); // a hang, not a speed, is what this finds
  });

  test.each([
    ["a path that is not there", { stdout: "/proc/1/fd/9999" }, /cannot be opened/],
    ["a file that is no pipe", { stdout: "/etc/hostname" }, /is not a pipe/],
    ["a relative folder", { dir: "logs" }, /no absolute path/],
    ["a pid that is none", { initPid: 1 }, /no container's pid/],
    [
      "an unfinished line that is too long",
      { partial: { o: Buffer.alloc(17_000).toString("base64"), e: "" } },
      /too long/,
    ],
  ])("%s is refused and changes nothing", async (_, wrong, message) => {
    startShim();
    const shim = await client();
    await expect(
      shim.attach({ container: "c1", dir: logDir("c1"), initPid: 0, stdout: "", stderr: "", ...wrong }),
    ).rejects.toThrow(message);
    await expect(shim.detach("c1")).rejects.toMatchObject({ code: "not-found" });
  });

  test("garbage on the socket is answered, and the shim stays", async () => {
    startShim();
    const shim = await client();
    expect(statSync(join(stateDir, "shim.sock")).mode & 0o777).toBe(0o600);
    const socket = connect(join(stateDir, "shim.sock"));
    cleanUp.defer(() => void socket.destroy());
    let text = "";
    socket.on("data", (piece) => (text += piece.toString()));
    socket.write('{"id":1,"op":"attach"}\nno json\n{"id":2,"op":"status"}\n');
    await until("three answers", () => text.split("\n").length === 5);
    expect(text).toMatch(/malformed[^]*not JSON[^]*"id":2,"ok":true,"containers":\[\]/);
    expect(await shim.status()).toEqual([]);
  });
});
