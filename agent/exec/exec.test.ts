import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { connect, type NatsConnection } from "@nats-io/transport-node";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";

import type { ExecOpen } from "../../proto/gen/godwit/v1/agent.ts";
import { processStat } from "../native/process.ts";
import { type ExecHost, type ExecService, serveExec, SESSIONS_PER_CONTAINER } from "./exec-service.ts";
import { TestContainer } from "./testing/container.ts";
import { ExecClient } from "./testing/exec-client.ts";
import { TestNatsServer } from "./testing/nats-server.ts";

const NODE = "n1";
let nats: TestNatsServer;
let container: TestContainer;
let agentSide: NatsConnection;
let apiSide: NatsConnection;
let service: ExecService;
let scratchDir: string;
let state: "running" | "frozen" | "other" = "running";
const logger = pino({ level: "silent" });

beforeAll(async () => {
  nats = await TestNatsServer.start();
  container = await TestContainer.start();
  scratchDir = join(container.folder, "exec");
}, 60_000);

afterAll(async () => {
  await container[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
}, 60_000);

beforeEach(async () => {
  state = "running";
  agentSide = await connect({ servers: nats.url });
  apiSide = await connect({ servers: nats.url });
  service = await start();
});

afterEach(async () => {
  await service[Symbol.asyncDispose]();
  await agentSide.close();
  await apiSide.close();
  await nothingLeft();
});

/** Neither files nor processes of an exec. */
async function nothingLeft(): Promise<void> {
  const folders = await readdir(scratchDir);
  if (folders.length > 0) throw new Error(`left in ${scratchDir}: ${folders.join(", ")}`);
  await vi.waitUntil(async () => (await container.pids()).length === 1, { timeout: 5_000 });
}

function start(presenceIntervalMs = 10_000): Promise<ExecService> {
  const host: ExecHost = {
    lookup: (id) => (id === container.id ? { state, detail: "it is being moved" } : undefined),
    runcPath: "runc",
    runcArguments: container.runcArguments,
    defaults: () => ({ env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "FROM=spec"], cwd: "/tmp" }),
  };
  const signal = new AbortController().signal;
  return serveExec({
    connection: agentSide,
    node: NODE,
    host,
    scratchDir,
    logger,
    signal,
    presenceIntervalMs,
  });
}

type TakeOutput = ExecClient["onOutput"];
const open = (command: string[], more: Partial<ExecOpen> = {}, take?: TakeOutput): Promise<ExecClient> =>
  ExecClient.open(apiSide, NODE, { containerId: container.id, command, ...more }, take);
const shell = (script: string, more: Partial<ExecOpen> = {}, take?: TakeOutput): Promise<ExecClient> =>
  open(["sh", "-c", script], more, take);

test("output, environment, folder and exit code", async () => {
  using client = await shell("echo out $FROM $ADDED $PWD; echo err >&2; echo dev >/dev/stdout; exit 7", {
    env: { ADDED: "by exec" },
  });
  expect(await client.exit).toEqual({ code: 7, error: "" });
  expect(client.stdout).toBe("out spec by exec /tmp\ndev\n");
  expect(client.stderr).toBe("err\n");
});

test("a process has the container's own capabilities, no more", async () => {
  using client = await shell("grep -e CapEff -e NoNewPrivs /proc/self/status /proc/1/status");
  expect((await client.exit).code).toBe(0);
  const values = client.stdout.split("\n").map((line) => line.split("\t")[1]);
  expect(values[0]).toBe(values[2]);
  expect(values[1]).toBe("1");
});

test("a user by name", async () => {
  using client = await shell("id -u; id -g", { user: "redis" });
  expect((await client.exit).code).toBe(0);
  expect(client.stdout).toBe("999\n999\n");
  await expect(shell("true", { user: "nobody-there" })).rejects.toThrow(/no user 'nobody-there'/);
});

test("killed by a signal", async () => {
  using client = await shell("kill -TERM $$");
  expect((await client.exit).code).toBe(143);
});

test.each([
  ["nope", 127, /nope.*not found/],
  ["/no/such/file", 127, /no such file/],
  ["/etc/passwd", 126, /permission denied/],
])("%s does not start", async (command, code, error) => {
  using client = await open([command]);
  const exit = await client.exit;
  expect(exit.code).toBe(code);
  expect(exit.error).toMatch(error);
  expect(client.stderr).toMatch(error);
});

test("standard input up to its end", async () => {
  using client = await open(["cat"], { stdin: true });
  client.type("one\n");
  await client.until("the echo", () => client.stdout === "one\n");
  client.type("two\n");
  client.send({ $case: "stdinClosed", value: true });
  expect((await client.exit).code).toBe(0);
  expect(client.stdout).toBe("one\ntwo\n");
});

test("much input, as fast as the process takes it", async () => {
  using client = await shell("sleep 0.3; wc -c", { stdin: true });
  const piece = Buffer.alloc(64 * 1024, "x");
  for (let sent = 0; sent < 8 * 1024 * 1024; sent += piece.length) {
    await client.until("credit", () => sent + piece.length <= client.inputCreditBytes);
    client.send({ $case: "stdin", value: piece });
  }
  client.send({ $case: "stdinClosed", value: true });
  expect((await client.exit).code).toBe(0);
  expect(client.stdout.trim()).toBe(String(8 * 1024 * 1024));
});

test("input that nobody takes ends the session", async () => {
  using client = await open(["sleep", "1000"], { stdin: true });
  for (let i = 0; i < 24; i += 1) client.send({ $case: "stdin", value: Buffer.alloc(64 * 1024) });
  expect((await client.exit).error).toMatch(/bytes of input wait/);
});

test("a lost frame ends the session", async () => {
  using client = await open(["cat"], { stdin: true });
  client.type("one\n");
  client.send({ $case: "stdin", value: Buffer.from("three\n") }, 1);
  expect((await client.exit).error).toMatch(/lost on its way/);
});

test("a terminal: size from the start, echo, resize, Control-D and Control-C", async () => {
  // Not an interactive shell: busybox's changes the terminal's mode all the time, and typing ahead then depends on luck.
  using client = await shell(
    "stty size; tty; while read line; do stty size; done; echo no more; sleep 1000",
    {
      tty: true,
      stdin: true,
      rows: 30,
      columns: 100,
    },
  );
  // runc takes the carriage return's making from the container's terminal to ours: at first there may be two.
  await client.until("the size", () => /^30 100\r+\n\/dev\/pts\//.test(client.stdout));
  client.send({ $case: "resize", value: { rows: 50, columns: 132 } });
  // runc passes the size on in its own time.
  await expect
    .poll(
      () => {
        client.type("typed\n");
        return client.stdout;
      },
      { timeout: 5_000 },
    )
    .toContain("typed\r\n50 132\r\n");
  client.type("\u0004");
  await client.until("the end of the input", () => client.stdout.includes("no more\r\n"));
  client.type("\u0003");
  expect(await client.exit).toEqual({ code: 130, error: "" });
});

test("much is pasted into a terminal that reads late", async () => {
  using client = await shell("stty raw -echo; echo ready; sleep 0.5; head -c 300000 | md5sum", {
    tty: true,
    stdin: true,
  });
  await client.until("raw mode", () => client.stdout.includes("ready"));
  for (let i = 0; i < 30; i += 1) client.type("0123456789".repeat(1000));
  expect((await client.exit).code).toBe(0);
  expect(client.stdout).toContain("b9c683230a9e20ee0a15acf7f070f508");
});

test("a terminal's exit code and the end of its output, sent slowly", async () => {
  using client = await shell("seq 1 100000; exit 3", { tty: true }, () => 0);
  await client.until("the first credit to be used up", () => client.stdoutBytes === 256 * 1024);
  await delay(300);
  expect(client.stdoutBytes).toBe(256 * 1024);
  client.onOutput = (bytes) => bytes.length;
  client.send({ $case: "credit", value: 64 * 1024 });
  expect(await client.exit).toEqual({ code: 3, error: "" });
  expect(client.stdout.endsWith("99999\r\n100000\r\n")).toBe(true);
  expect(client.stdout.replaceAll("\r", "").length).toBe(588_895);
});

test("a command that a terminal cannot start", async () => {
  using client = await open(["nope"], { tty: true });
  expect(await client.exit).toMatchObject({ code: 127 });
});

test("50 MB of output in bounded memory, without credit none", async () => {
  const bytes = 50 * 1024 * 1024;
  let held = 0;
  using client = await open(["head", "-c", String(bytes), "/dev/zero"], {}, (piece) => {
    held += piece.length;
    return 0;
  });
  await client.until("the first credit to be used up", () => held === 256 * 1024);
  await delay(300);
  expect(held).toBe(256 * 1024);
  const before = process.memoryUsage().rss;
  let most = 0;
  client.onOutput = (piece) => {
    client.forget();
    return piece.length;
  };
  const watch = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 20);
  client.send({ $case: "credit", value: held });
  expect(await client.exit).toEqual({ code: 0, error: "" });
  clearInterval(watch);
  expect(client.stdoutBytes).toBe(bytes);
  expect(most - before).toBeLessThan(60 * 1024 * 1024);
});

test("kill ends the process and what it started", async () => {
  using client = await shell("sleep 1000 & (sleep 1001 | sleep 1002) & wait");
  await expect.poll(() => container.pids(), { timeout: 5_000 }).toHaveLength(6);
  client.send({ $case: "kill", value: true });
  expect(await client.exit).toEqual({ code: 137, error: "the client has gone" });
});

test("kill before the command has started", async () => {
  using client = await open(["sleep", "1000"]);
  client.send({ $case: "kill", value: true });
  expect((await client.exit).code).toBe(137);
});

test("kill although a process in the background holds the output", async () => {
  using client = await shell("sleep 1000 & echo started");
  await client.until("its output", () => client.stdout === "started\n");
  client.send({ $case: "kill", value: true });
  expect((await client.exit).code).toBe(137);
});

test("a client that died is noticed", async () => {
  await service[Symbol.asyncDispose]();
  service = await start(100);
  const client = await open(["sleep", "1000"]);
  await expect.poll(() => container.pids(), { timeout: 5_000 }).toHaveLength(2);
  client[Symbol.dispose]();
  await expect.poll(() => container.pids(), { timeout: 5_000 }).toHaveLength(1);
});

test("quiesce waits, ends what is left, and admits nobody until told to", async () => {
  using quick = await shell("sleep 0.4; echo done");
  using slow = await open(["sh"], { tty: true, stdin: true });
  using starting = await open(["sleep", "1000"]);
  await service.quiesce(container.id, 1_500, "the container is moving to n2");
  expect(await container.pids()).toHaveLength(1);
  expect(await quick.exit).toEqual({ code: 0, error: "" });
  expect(await slow.exit).toEqual({ code: 137, error: "the container is moving to n2" });
  expect(await starting.exit).toEqual({ code: 137, error: "the container is moving to n2" });
  await expect(shell("true")).rejects.toThrow("the container is moving to n2");
  service.admit(container.id);
  using again = await shell("true");
  expect((await again.exit).code).toBe(0);
});

test("visits end before a freeze, and are waited for", async () => {
  const ended: string[] = [];
  const visit = service.visit(container.id, async (leaving) => {
    try {
      return await service.command(container.id, ["sleep", "1000"], leaving);
    } finally {
      ended.push("visit");
    }
  });
  visit.catch(() => undefined);
  await expect.poll(() => container.pids(), { timeout: 5_000 }).toHaveLength(2);
  await service.quiesce(container.id, 1_500, "the container is moving to n2");
  expect(ended).toEqual(["visit"]);
  expect(await container.pids()).toHaveLength(1);
  await expect(visit).rejects.toThrow("the container is moving to n2");
  await expect(service.visit(container.id, () => Promise.resolve(1))).rejects.toThrow("moving to n2");
  service.admit(container.id);
  expect(await service.visit(container.id, () => Promise.resolve(1))).toBe(1);
});

test("a command's code and the end of what it wrote", async () => {
  const signal = new AbortController().signal;
  const run = (script: string) => service.command(container.id, ["sh", "-c", script], signal);
  expect(await run("echo out; echo err >&2; exit 3")).toMatchObject({ code: 3, error: "" });
  expect((await run("echo out; echo err >&2")).output.split("\n").toSorted()).toEqual(["", "err", "out"]);
  const long = await run("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
  expect(long.output).toMatch(/line 2998\nline 2999\n$/);
  expect(long.output.length).toBeLessThanOrEqual(4_096);
  expect(await service.command(container.id, ["/no/such"], signal)).toMatchObject({ code: 127 });
});

test("quiesce of a frozen container says so", async () => {
  using client = await open(["sleep", "1000"]);
  await expect.poll(() => container.pids(), { timeout: 5_000 }).toHaveLength(2);
  await container.runc("pause");
  try {
    await expect(service.quiesce(container.id, 0, "moving")).rejects.toThrow(/could not be ended/);
  } finally {
    await container.runc("resume");
  }
  expect((await client.exit).code).toBe(137);
}, 30_000);

test("refusals", async () => {
  const of = (more: Partial<ExecOpen>) =>
    ExecClient.open(apiSide, NODE, { containerId: container.id, command: ["true"], ...more });
  await expect(of({ containerId: "0000000000000000" })).rejects.toThrow(/not on this node/);
  await expect(of({ command: [] })).rejects.toThrow(/no command/);
  await expect(of({ workingDir: "tmp" })).rejects.toThrow(/not an absolute path/);
  await expect(of({ outputSubject: "godwit.node.n2.desired" })).rejects.toThrow(/no subject/);
  await expect(of({ env: { "A=B": "c" } })).rejects.toThrow(/environment variable/);
  state = "frozen";
  await expect(of({})).rejects.toThrow(/takes no commands: it is being moved/);
  const garbage = await apiSide.request(`godwit.node.${NODE}.exec`, Buffer.from([0x0a, 0xff]), {
    timeout: 5_000,
  });
  expect(Buffer.from(garbage.data).toString()).toMatch(/no ExecOpen/);
});

test("a working folder that is not there", async () => {
  using client = await shell("true", { workingDir: "/no/such" });
  expect(await client.exit).toMatchObject({
    code: 125,
    error: expect.stringMatching(/no such file/) as string,
  });
});

test("a limit of sessions", async () => {
  const clients = await Promise.all(
    Array.from({ length: SESSIONS_PER_CONTAINER }, () => open(["cat"], { stdin: true })),
  );
  await expect(open(["true"])).rejects.toThrow(/32 commands run/);
  for (const client of clients) client.send({ $case: "stdinClosed", value: true });
  for (const client of clients) expect((await client.exit).code).toBe(0);
}, 60_000);

test("an interrupted connection ends the sessions with an error", async () => {
  using client = await open(["sleep", "1000"]);
  await agentSide.reconnect();
  expect((await client.exit).error).toMatch(/interrupted/);
});

test("the end of the container ends the session", async () => {
  await using other = await TestContainer.start();
  const host: ExecHost = {
    lookup: () => ({ state: "running", detail: "" }),
    runcPath: "runc",
    runcArguments: other.runcArguments,
    defaults: () => ({ env: ["PATH=/bin"], cwd: "/" }),
  };
  const signal = new AbortController().signal;
  await using _service = await serveExec({
    connection: agentSide,
    node: "n2",
    host,
    scratchDir: join(other.folder, "exec"),
    logger,
    signal,
  });
  using client = await ExecClient.open(apiSide, "n2", {
    containerId: other.id,
    command: ["sh", "-c", "echo up; sleep 1000"],
  });
  await client.until("the start", () => client.stdout === "up\n");
  process.kill(await other.initPid(), "SIGKILL");
  expect((await client.exit).code).toBe(137);
}, 60_000);

test("an agent that was killed leaves no exec behind", async () => {
  await service[Symbol.asyncDispose]();
  const program = join(import.meta.dirname, "testing", "doomed-agent.ts");
  const agent = spawn(
    process.execPath,
    [program, nats.url, container.id, scratchDir, ...container.runcArguments],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  await once(agent.stdout, "data");
  using _client = await shell("sleep 1000 & sleep 1001; true");
  using _terminal = await open(["sleep", "1002"], { tty: true });
  await expect.poll(() => container.pids(), { timeout: 5_000 }).toHaveLength(5);
  const [left] = (await container.pids()).slice(-1);
  agent.kill("SIGKILL");
  await once(agent, "exit");
  expect(processStat(left as number)).toBeDefined();
  service = await start();
  expect(await container.pids()).toHaveLength(1);
}, 60_000);
