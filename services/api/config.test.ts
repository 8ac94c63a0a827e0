import { describe, expect, test } from "vitest";
import { parseConfig } from "./config.ts";

const GOOD = {
  schedulerId: "s1",
  natsUrl: "nats://127.0.0.1:4222",
  listen: ["unix:/run/godwit/api.sock"],
  dataDir: "/var/lib/godwit",
};
const parse = (changes: object = {}) => parseConfig(JSON.stringify({ ...GOOD, ...changes }));
const TLS = { certFile: "/c", keyFile: "/k", caFile: "/a" };

test("defaults", () => {
  expect(parse()).toEqual({
    schedulerId: "s1",
    natsUrl: "nats://127.0.0.1:4222",
    listen: [{ kind: "unix", path: "/run/godwit/api.sock" }],
    advertise: ["unix:/run/godwit/api.sock"],
    dataDir: "/var/lib/godwit",
    leaseMs: 15_000,
    replicas: 1,
    snapshotEvery: 1_000,
    maxImageBytes: 32 * 2 ** 30,
    logLevel: "info",
  });
});

test("all of it", () => {
  const config = parse({
    natsUser: "u",
    natsPasswordFile: "/p",
    listen: ["127.0.0.1:7400", "[::1]:1"],
    replicas: 3,
    logLevel: "debug",
  });
  expect(config.advertise).toEqual(["127.0.0.1:7400", "[::1]:1"]);
  expect(parse({ advertise: ["api-1.example:7443"], leaderLeaseMs: 2_000 })).toMatchObject({
    advertise: ["api-1.example:7443"],
    leaderLeaseMs: 2_000,
  });
  expect(config.nats).toEqual({ user: "u", passwordFile: "/p" });
  expect(parse({ natsTls: TLS }).natsTls).toEqual(TLS);
  expect(config.listen).toEqual([
    { kind: "tcp", host: "127.0.0.1", port: 7400 },
    { kind: "tcp", host: "::1", port: 1 },
  ]);
  expect(parse({ listen: ["0.0.0.0:7400"], tls: TLS }).tls).toEqual(TLS);
});

describe("each mistake is named", () => {
  test.each([
    [{ schedulerId: undefined }, "schedulerId is missing"],
    [{ natsUrl: 5 }, "natsUrl must be a text"],
    [{ natsUrl: "http://x" }, "natsUrl"],
    [{ natsUser: "u" }, "belong together"],
    [{ listen: [] }, "listen must be a list"],
    [{ listen: ["0.0.0.0:7400"] }, "without encryption"],
    [{ listen: ["10.0.0.1:7400"] }, "without encryption"],
    [{ listen: ["unix:relative"] }, "absolute path"],
    [{ listen: [`unix:/${"x".repeat(120)}`] }, "longer than"],
    [{ listen: ["nonsense"] }, "neither"],
    [{ tls: { certFile: "/c" }, listen: ["0.0.0.0:1"] }, "tls.keyFile"],
    [{ natsTls: { certFile: "/c", keyFile: "k", caFile: "/a" } }, "natsTls.keyFile"],
    [{ dataDir: "data" }, "absolute"],
    [{ leaseMs: 1.5 }, "leaseMs must be a whole number"],
    [{ replicas: 2 }, "1, 3 or 5"],
    [{ leaderLeaseMs: 20_000 }, "from 500 to 15000"],
    [{ advertise: ["10.0.0.1"] }, "neither unix:/PATH nor HOST:PORT"],
    [{ logLevel: "loud" }, "logLevel"],
    [{ leeseMs: 5 }, '"leeseMs" is not a setting'],
  ])("%j", (changes, message) => {
    expect(() => parse(changes)).toThrow(message);
  });
  test("no JSON", () => {
    expect(() => parseConfig("{")).toThrow("not valid JSON");
    expect(() => parseConfig("[]")).toThrow("one JSON object");
  });
});
