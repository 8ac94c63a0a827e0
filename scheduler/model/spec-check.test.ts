import { expect, test } from "vitest";
import * as fc from "fast-check";
import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { sampleImage, sampleSpec } from "../testing/sample.ts";
import { addressOf, hostOf, isIpv4, LAST_HOST, macOf, usableHost } from "./network.ts";
import { formatBytes, someOf } from "./quantity.ts";
import { checkImage, checkSpec } from "./spec-check.ts";

const limits = (rest: object): Partial<ContainerSpec> => ({
  limits: { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 0, ...rest },
});

test.each<[string, Partial<ContainerSpec>, RegExp]>([
  ["no name", { name: "" }, /no container name/],
  ["capitals", { name: "Web" }, /no container name/],
  ["a dot", { name: "a.b" }, /no container name/],
  ["too long a name", { name: "a".repeat(64) }, /no container name/],
  ["no image", { image: "" }, /no image given/],
  ["a wild image", { image: "../etc" }, /no image name/],
  ["a node that cannot be", { node: "N1" }, /no node name/],
  ["a NUL", { command: ["a\0b"] }, /NUL/],
  ["too many arguments", { command: Array.from({ length: 5_000 }, () => "x") }, /4096 arguments/],
  ["a relative folder", { workingDir: "tmp" }, /absolute/],
  ["a variable without name", { env: { "": "x" } }, /environment variable/],
  ["a variable with =", { env: { "A=B": "x" } }, /environment variable/],
  ["a variable named __proto__", { env: Object.fromEntries([["__proto__", "x"]]) }, /environment variable/],
  ["a label with a space", { labels: { "a b": "x" } }, /label name/],
  ["little memory", limits({ memoryBytes: 6 * 1024 * 1024 - 1 }), /at least 6 MiB/],
  ["little cpu", limits({ cpuMillis: 9 }), /at least 0.01/],
  ["a negative limit", limits({ pids: -1 }), /pids/],
  ["half a byte", limits({ memoryBytes: 1e9 + 0.5 }), /memoryBytes/],
  ["an unknown stop signal", { stopSignal: "SIGSTOPPED" }, /SIGINT/],
  ["a long grace", { stopGraceSeconds: 4_000 }, /3600 s/],
  [
    "a constraint of no label",
    { constraints: [{ key: "a b", value: "", unequal: false }] },
    /label name for a constraint/,
  ],
  [
    "together and apart",
    { affinity: [{ key: "a", value: "b" }], antiAffinity: [{ key: "a", value: "b" }] },
    /both beside and apart/,
  ],
  ["no port", { ports: [{ hostPort: 0, containerPort: 80, protocol: "tcp" }] }, /0 is no port/],
  ["an odd protocol", { ports: [{ hostPort: 1, containerPort: 80, protocol: "sctp" }] }, /use tcp or udp/],
  [
    "the tunnels' port",
    { ports: [{ hostPort: 4789, containerPort: 1, protocol: "udp" }] },
    /containers' network/,
  ],
  [
    "a port twice",
    { ports: ["", "tcp"].map((protocol) => ({ hostPort: 1, containerPort: 80, protocol })) },
    /published twice/,
  ],
  ["an odd project", { project: "My Team" }, /no project name/],
  ["half a priority", { priority: 0.5 }, /priority/],
  ["too much in all", { labels: { a: "x".repeat(256 * 1024) } }, /256 KiB/],
])("a specification with %s is refused", (_, rest, message) => {
  expect(() => checkSpec({ ...sampleSpec("web"), ...rest })).toThrow(message);
  expect(() => checkSpec({ ...sampleSpec("web"), ...rest })).toThrow(GodwitError);
});

test.each<Partial<ContainerSpec>>([
  {},
  { image: "registry.example.com/library/redis:7.2" },
  { image: `sha256:${"a".repeat(64)}` },
  { env: { PATH: "/bin", "weird.name": "" }, labels: { "app.kubernetes.io/name": "x" } },
  limits({ memoryBytes: 6 * 1024 * 1024, cpuMillis: 10, pids: 1 }),
  { workingDir: "/srv", user: "1000:1000", stopGraceSeconds: 3600, stopSignal: "SIGRTMIN+3" },
])("a sound one is not: %j", (rest) => {
  expect(() => checkSpec({ ...sampleSpec("web"), ...rest })).not.toThrow();
});

test("images", () => {
  expect(() => checkImage(sampleImage())).not.toThrow();
  for (const rest of [
    { name: "__proto__" },
    { name: `sha256:${"a".repeat(64)}` },
    { digest: "sha256:xyz" },
    { layers: [] },
    {
      config: {
        entrypoint: [],
        cmd: [],
        env: ["A=" + "x".repeat(300_000)],
        workingDir: "",
        user: "",
        stopSignal: "",
      },
    },
  ])
    expect(() => checkImage({ ...sampleImage(), ...rest })).toThrow(GodwitError);
});

test("addresses", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: LAST_HOST }), (number) => {
      const host = usableHost(number);
      expect(hostOf(addressOf(host))).toBe(host);
      expect(addressOf(host)).not.toMatch(/\.(0|255)$/);
      expect(isIpv4(addressOf(host))).toBe(true);
      expect(macOf(host)).toMatch(/^02:57:0a:5[0-9a-f](:[0-9a-f]{2}){2}$/);
      expect(host - number).toBeLessThanOrEqual(2);
    }),
  );
  for (const text of ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "a.b.c.d", "1.2.3.4 "])
    expect(isIpv4(text)).toBe(false);
});

test("quantities", () => {
  expect([0, 1023, 1024, 1536, 512 * 1024 ** 2, 3 * 1024 ** 4].map(formatBytes)).toEqual([
    "0 B",
    "1023 B",
    "1 KiB",
    "1.5 KiB",
    "512 MiB",
    "3 TiB",
  ]);
  expect(someOf(["a", "b", "c", "d", "e"])).toBe("a, b, c and 2 more");
});
