/** The API as a process: wrong configuration, NATS that is not there yet or goes away, and its end. */
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { credentials } from "@grpc/grpc-js";
import { afterEach, beforeEach, expect, test } from "vitest";
import { NatsServer } from "../../scheduler/testing/nats-server.ts";
import { GodwitClient, type ClusterStatus } from "../../proto/gen/godwit/v1/api.ts";
import { ask } from "./testing/api-cluster.ts";

const MAIN = fileURLToPath(new URL("main.ts", import.meta.url));
let stack: AsyncDisposableStack;
let folder: string;

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  folder = await mkdtemp(join(tmpdir(), "godwit-api-"));
  stack.defer(() => rm(folder, { recursive: true }));
});
afterEach(async () => {
  await stack.disposeAsync();
});

interface ApiProcess {
  /** Resolves with the first line of the log that has `text` in it. */
  readonly said: (text: string) => Promise<string>;
  readonly terminate: () => void;
  readonly ended: Promise<{ code: number | null; stderr: string }>;
}

async function startProcess(config: object | string): Promise<ApiProcess> {
  const file = join(folder, "api.json");
  await writeFile(file, typeof config === "string" ? config : JSON.stringify(config));
  const child = spawn(process.execPath, [MAIN, "--config", file], { stdio: ["ignore", "pipe", "pipe"] });
  const lines: string[] = [];
  const watchers = new Set<() => void>();
  createInterface(child.stdout).on("line", (line) => {
    lines.push(line);
    for (const watcher of watchers) watcher();
  });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const { promise: ended, resolve } = Promise.withResolvers<{ code: number | null; stderr: string }>();
  child.on("close", (code) => resolve({ code, stderr }));
  stack.defer(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  const said = (text: string): Promise<string> => {
    const found = Promise.withResolvers<string>();
    const look = (): void => {
      const line = lines.find((candidate) => candidate.includes(text));
      if (line !== undefined) found.resolve(line);
    };
    watchers.add(look);
    look();
    void ended.then(() =>
      found.reject(new Error(`the API ended without saying ${text}: ${lines.join("\n")} ${stderr}`)),
    );
    return found.promise;
  };
  return { said, terminate: () => child.kill("SIGTERM"), ended };
}

const socket = (): string => join(folder, "run", "api.sock");
const configFor = (url: string): object => ({
  schedulerId: "s1",
  natsUrl: url,
  listen: [`unix:${socket()}`],
  dataDir: join(folder, "data"),
});

test("a wrong configuration ends it with one line and exit code 2", async () => {
  for (const [config, message] of [
    ["{", "not valid JSON"],
    [{ ...configFor("127.0.0.1:4222"), listen: ["0.0.0.0:1"] }, "without encryption"],
  ] as const) {
    const { code, stderr } = await (await startProcess(config)).ended;
    expect(code).toBe(2);
    expect(stderr).toMatch(/^godwit api: [^\n]+\n$/);
    expect(stderr).toContain(message);
  }
});

test("NATS not reachable is said in one line, and ends with SIGTERM", async () => {
  // A port that surely nobody listens on: taken, and closed again.
  const taken = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => taken.once("listening", resolve));
  const address = taken.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  await new Promise((resolve) => taken.close(resolve));
  const api = await startProcess(configFor(`127.0.0.1:${port}`));
  expect(await api.said("cannot be reached")).toContain("trying on each second");
  api.terminate();
  expect(await api.ended).toEqual({ code: 0, stderr: "" });
});

test("NATS killed and started again: calls work again, and the end is clean", async () => {
  const nats = stack.use(await NatsServer.start());
  const api = await startProcess(configFor(nats.url));
  await api.said("the API listens");
  const client = new GodwitClient(`unix:${socket()}`, credentials.createInsecure());
  stack.defer(() => client.close());
  const status = (): Promise<ClusterStatus> => ask<ClusterStatus>((done) => client.status({}, done));
  const before = await status();
  expect(before).toMatchObject({
    leader: "s1",
    warnings: expect.arrayContaining(["no node has joined yet"]),
  });
  await nats.kill();
  await api.said("the connection to NATS was lost");
  // What is known is still told.
  expect((await status()).epoch).toBe(before.epoch);
  await nats.launch();
  await api.said("connected to NATS again");
  expect((await status()).logSequence).toBeGreaterThanOrEqual(before.logSequence);
  api.terminate();
  expect(await api.ended).toEqual({ code: 0, stderr: "" });
});
