/** `balance` and `stats` as a process, against a real API with simulated agents. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { NatsServer } from "../../scheduler/testing/nats-server.ts";
import { SimulatedAgent } from "../../scheduler/testing/simulated-agent.ts";
import { tarOf } from "../api/image/testing/archives.ts";
import { ApiCluster } from "../api/testing/api-cluster.ts";
import { parsePoints, parseUntilMs } from "./program-balance.ts";
import { runCommand, type CommandResult } from "./testing/run-command.ts";

let cluster: ApiCluster;

beforeAll(async () => {
  cluster = await ApiCluster.start(
    () => NatsServer.start(),
    (url, name) => SimulatedAgent.start(url, name),
  );
  await cluster.importTar("base", await tarOf([{ name: "bin/app", content: Buffer.alloc(10) }]));
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

const godwit = (...args: string[]): Promise<CommandResult> =>
  runCommand(args, { api: cluster.unixAddress, timeoutMs: 30_000 });
const json = async (...args: string[]): Promise<unknown> => {
  const { code, stdout, stderr } = await godwit(...args, "-o", "json");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout);
};

test("settings are kept one by one, shown, and refused with a reason", async () => {
  expect(await json("balance")).toMatchObject({
    policy: "recommend",
    paused: null,
    moves: [],
    settings: { threshold: 0.15, windows: [], freezeUntil: null },
  });
  await json("balance", "--policy", "auto");
  const set = ["--window", "Mon-Fri 22:00-06:00", "--window", "Sat,Sun 00:00-24:00", "--threshold", "20"];
  await json("balance", "set", ...set, "--freeze-until", "2099-01-01T00:00");
  expect(await json("balance", "status")).toMatchObject({
    policy: "auto",
    settings: {
      policy: "auto",
      threshold: 0.2,
      windows: ["Mon-Fri 22:00-06:00", "Sat,Sun 00:00-24:00"],
      freezeUntil: "2099-01-01T00:00:00.000Z",
    },
  });
  expect((await godwit("balance")).stdout).toMatch(/^Frozen until +2099-01-01T00:00:00.000Z$/m);
  expect(await godwit("balance", "run")).toMatchObject({
    code: 3,
    stderr: expect.stringContaining("nothing is moved until 2099-01-01"),
  });
  await json("balance", "set", "--window", "none", "--freeze-until", "none");
  expect(await json("balance")).toMatchObject({ settings: { windows: [], freezeUntil: null } });
  for (const wrong of [
    ["balance", "set"],
    ["balance", "dance"],
    ["balance", "--policy", "always"],
    ["balance", "--window", "Mon 22-06"],
    ["balance", "--round", "1ms"],
  ])
    expect(await godwit(...wrong)).toMatchObject({
      code: expect.toSatisfy((code) => code === 1 || code === 2),
      stdout: "",
      stderr: expect.stringMatching(/^godwit: .+\n$/),
    });
});

test("with nothing to do a plan is empty and says why, and a run moves nothing", async () => {
  expect(await json("balance", "plan")).toEqual({ moves: [], idleBecause: [expect.any(String)] });
  expect(await json("balance", "run")).toMatchObject({ moves: [] });
  expect((await godwit("balance", "run")).stdout).toMatch(/^Nothing was moved\.\n/);
});

test("stats: containers and nodes, once where there is no terminal", async () => {
  await cluster.run("web", "n1");
  await cluster.run("db", "n2");
  expect(await json("stats")).toMatchObject({
    containers: expect.arrayContaining([
      expect.objectContaining({ name: "web", node: "n1", state: "running", memoryBytes: 1234 }),
    ]),
    nodes: [
      { node: "n1", containers: 1, state: "ready" },
      { node: "n2", containers: 1, state: "ready" },
    ],
  });
  expect(await json("stats", "web")).toMatchObject({
    containers: [{ name: "web" }],
    nodes: [{ node: "n1", containers: 1 }],
  });
  const { code, stdout } = await godwit("stats");
  expect(code).toBe(0);
  expect(stdout).toMatch(/^NODE +STATE/);
  expect(stdout).toMatch(/^web +n1 +running/m);
  expect(await godwit("stats", "nobody")).toMatchObject({ code: 1, stdout: "" });
});

test("shares and times as people write them", () => {
  expect([parsePoints("15"), parsePoints("7.5%")]).toEqual([0.15, 0.075]);
  expect(() => parsePoints("much")).toThrow(/points out of 100/);
  expect(parseUntilMs("2h", 1_000)).toBe(7_201_000);
  expect(parseUntilMs("none", 1_000)).toBe(0);
  for (const same of ["2026-01-31T12:00:00Z", "2026-01-31T12:00", "2026-01-31T13:00+01:00"])
    expect(parseUntilMs(same, 0)).toBe(Date.UTC(2026, 0, 31, 12));
  expect(parseUntilMs("2026-01-31", 0)).toBe(Date.UTC(2026, 0, 31));
  expect(() => parseUntilMs("soon", 0)).toThrow(/no duration/);
});
