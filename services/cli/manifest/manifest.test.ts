import { describe, expect, test } from "vitest";
import { ServiceChange } from "../../../proto/gen/godwit/v1/api.ts";
import { changeLines, fieldChanges } from "./compare.ts";
import { serviceFields } from "./document.ts";
import { readManifest } from "./service.ts";
import { nearestWord } from "./suggest.ts";

const FULL = `
name: web
replicas: 3
spread:
  - over: node
  - {over: zone, maxSkew: 1}
update: {batch: 2, pause: 1500ms, order: start-first, onFailure: pause, monitor: 5s, timeout: 2m}
disruption: {maxUnavailable: 25%}
container:
  image: redis:7
  command: [redis-server, --port, 6379]
  env: {MODE: front, PORT: 0x10, DEBUG: yes, EMPTY: ""}
  workdir: /srv
  user: "1000:1000"
  limits: {memory: 256m, cpus: 0.5, pids: 100, disk: 1g}
  labels: {tier: front}
  health: {http: {port: 80, path: /health}, interval: 5s, timeout: 1s, retries: 2, startPeriod: 1m}
  restart: {policy: on-failure, initial: 1s, max: 20s, resetAfter: 5m}
  migration: cold
  blackoutBudget: 300ms
  cures: false
  stopGrace: 30s
  stopSignal: SIGINT
  constraints: [zone=a, disk!=slow]
  affinity: [app=db]
  antiAffinity: [app=web]
  publish: ["8080:80", 5353:53/udp]
  strategy: pack
  project: shop
  priority: -5
  preemption: stop
  failover: never
`;

describe("what is read", () => {
  test("everything, in the words of the API", () => {
    const { services, source } = readManifest("web.yaml", FULL);
    expect(source.describe()).toEqual([]);
    expect(services).toMatchObject([
      {
        line: 2,
        spec: {
          name: "web",
          replicas: 3,
          spread: [
            { label: "", maxSkew: 0 },
            { label: "zone", maxSkew: 1 },
          ],
          update: {
            batch: 2,
            pauseMs: 1_500,
            order: "UPDATE_ORDER_START_FIRST",
            onFailure: "ON_FAILURE_PAUSE",
            monitorMs: 5_000,
            timeoutMs: 120_000,
          },
          disruption: { limit: { $case: "maxUnavailablePercent", value: 25 } },
          template: {
            name: "",
            image: "redis:7",
            command: ["redis-server", "--port", "6379"],
            // As it is written: nobody's PORT is 16 because YAML can count.
            env: { MODE: "front", PORT: "0x10", DEBUG: "yes", EMPTY: "" },
            workingDir: "/srv",
            user: "1000:1000",
            limits: { memoryBytes: 2 ** 28, cpuMillis: 500, pids: 100, diskBytes: 2 ** 30 },
            labels: { tier: "front" },
            health: {
              probe: { $case: "http", value: { port: 80, path: "/health" } },
              intervalMs: 5_000,
              timeoutMs: 1_000,
              retries: 2,
              startPeriodMs: 60_000,
            },
            restart: "RESTART_POLICY_ON_FAILURE",
            backoff: { initialMs: 1_000, maxMs: 20_000, resetAfterMs: 300_000 },
            migration: "MIGRATION_POLICY_COLD",
            blackoutBudgetMs: 300,
            noCures: true,
            stopGraceSeconds: 30,
            stopSignal: "SIGINT",
            constraints: [
              { key: "zone", value: "a", unequal: false },
              { key: "disk", value: "slow", unequal: true },
            ],
            affinity: [{ key: "app", value: "db" }],
            antiAffinity: [{ key: "app", value: "web" }],
            ports: [
              { hostPort: 8080, containerPort: 80, protocol: "tcp" },
              { hostPort: 5353, containerPort: 53, protocol: "udp" },
            ],
            strategy: "PLACEMENT_STRATEGY_PACK",
            project: "shop",
            priority: -5,
            preemption: "PREEMPTION_POLICY_STOP",
            failover: "FAILOVER_POLICY_NEVER",
          },
        },
      },
    ]);
  });

  test("it is written as it was read", () => {
    const { services } = readManifest("web.yaml", FULL);
    const [first] = services;
    const again = readManifest("again", JSON.stringify(serviceFields(first?.spec as never)));
    expect(again.source.describe()).toEqual([]);
    expect(again.services[0]?.spec).toEqual(first?.spec);
  });

  test("several documents, anchors, and a health command for a shell", () => {
    const { services, source } = readManifest(
      "two.yaml",
      `# first
name: a
container: &common
  image: redis
  env: &env {A: b}
  labels: *env
  health: {command: redis-cli ping, interval: 1s}
---
name: b
replicas: 0
container: {image: redis}
---
`,
    );
    expect(source.describe()).toEqual([]);
    expect(services.map(({ line, spec }) => [line, spec.name, spec.replicas])).toEqual([
      [2, "a", 1],
      [9, "b", 0],
    ]);
    expect(services[0]?.spec.template?.labels).toEqual({ A: "b" });
    expect(services[0]?.spec.template?.health?.probe).toEqual({
      $case: "command",
      value: { arguments: ["/bin/sh", "-c", "redis-cli ping"] },
    });
  });
});

const lines = (...text: string[]): string => text.join("\n");
const body = (...text: string[]): string => lines("name: web", "container:", "  image: redis", ...text);

describe("what is wrong, and where", () => {
  test.each([
    ["an unknown key", body("replica: 3"), '4:1: unknown key "replica": did you mean "replicas"?'],
    [
      "one that is like nothing",
      body("wibble: 3"),
      '4:1: unknown key "wibble": known here are name, replicas, update, disruption, spread, container',
    ],
    [
      "one in another style",
      body("  stop_signal: INT"),
      '4:3: unknown key "stop_signal": did you mean "stopSignal"?',
    ],
    [
      "one a level too high",
      body("maxUnavailable: 1"),
      '4:1: unknown key "maxUnavailable": it belongs into "disruption"',
    ],
    ["one inside", body("update: {bach: 2}"), '4:10: unknown key "bach": did you mean "batch"?'],
    [
      "no number",
      body("replicas: three"),
      '4:11: replicas: expected how many containers to keep, a whole number from 0 to 10000, found "three"',
    ],
    [
      "a negative number",
      body("replicas: -1"),
      '4:11: replicas: expected how many containers to keep, a whole number from 0 to 10000, found "-1"',
    ],
    [
      "a duration without a unit",
      body("update:", "  pause: 5"),
      '5:10: pause: expected a duration such as 300ms, 45s, 2m or 1h30m, found "5"',
    ],
    [
      "a misspelt word",
      body("update: {order: start_first}"),
      '4:17: order: expected stop-first or start-first, found "start_first" (did you mean start-first?)',
    ],
    [
      "more than all",
      body("disruption: {maxUnavailable: 101%}"),
      '4:14: maxUnavailable: expected a number, or a share such as "25%", found "101%"',
    ],
    [
      "what could never be updated",
      body("disruption: {maxUnavailable: 0}"),
      '4:1: with maxUnavailable 0 it could never be updated: set "order: start-first" under update, or allow one',
    ],
    [
      "a text for a list",
      body("  command: redis-server"),
      '4:12: command: expected a list of texts such as ["sh", "-c", "date"], found "redis-server"',
    ],
    [
      "an empty variable",
      body("  env:", "    A:"),
      '5:7: env: expected a mapping of names to texts, found nothing for A (write "" for an empty text)',
    ],
    [
      "two ways to check",
      body("  health: {tcp: 80, command: ls}"),
      "4:12: one of command, tcp, http is enough: give no other",
    ],
    [
      "no way to check",
      body("  health: {interval: 1s}"),
      '4:11: "command" is missing: how health is checked; or give tcp or http',
    ],
    [
      "an unknown policy",
      body("  restart: sometimes"),
      '4:12: restart: expected always, on-failure or never, or a mapping with policy, initial, max and resetAfter, found "sometimes"',
    ],
    [
      "a constraint of no form",
      body("  constraints: [zone=a, zone]"),
      '4:25: constraints: expected a list of NAME=VALUE or NAME!=VALUE, found "zone"',
    ],
    ["no container", "name: web", '1:1: "container" is missing: what its containers are made of'],
    [
      "no image",
      lines("name: web", "container:", "  user: me"),
      '3:3: "image" is missing: the image that its containers are made from',
    ],
    [
      "a container of nothing",
      lines("name: web", "container:"),
      "2:11: container: expected a mapping with image, command, env, limits, …, found nothing",
    ],
    [
      "a bad name",
      lines("name: Web", "container: {image: redis}"),
      "1:1: name: expected 1 to 56 lower-case letters, digits and dashes, no dash at either end",
    ],
    [
      "an alias from another document",
      lines("name: web", "container: *other"),
      "2:12: container: expected a mapping with image, command, env, limits, …, found *other, which stands for nothing in this document",
    ],
    ["a list", "- a", "1:1: expected a service: a mapping with name, replicas and container"],
    ["nothing", "", "1:1: there is no service in it"],
    ["the same twice", `${body()}\n---\n${body()}`, "5:1: there is a service web already, in line 1"],
    ["a key twice", body("name: other"), "4:1: Map keys must be unique"],
    [
      "broken YAML",
      lines("name: web", "container: {image: redis"),
      "2:25: Flow map in block collection must be sufficiently indented and end with a }",
    ],
  ])("%s", (_, text, expected) => {
    const { source } = readManifest("f", text);
    expect(source.describe()[0]).toBe(`f:${expected}`);
  });

  test("the line itself stands below, with a mark", () => {
    const { source } = readManifest("web.yaml", body("replicas: three", "replica: 1"));
    expect(source.describe()).toEqual([
      expect.stringMatching(/^web.yaml:4:11: /),
      "    4 | replicas: three",
      "      |           ^",
      expect.stringMatching(/^web.yaml:5:1: /),
      "    5 | replica: 1",
      "      | ^",
    ]);
  });

  test("a file of rubbish is not answered at any length", () => {
    const { source } = readManifest("f", Array.from({ length: 500 }, (_, at) => `k${at}: 1`).join("\n"));
    expect(source.describe().at(-1)).toBe("and 482 more");
  });
});

test("what is near is suggested, what is far is not", () => {
  expect(nearestWord("Memroy", ["memory", "cpus"])).toBe("memory");
  expect(nearestWord("max-unavailable", ["maxUnavailable"])).toBe("maxUnavailable");
  expect(nearestWord("x", ["memory", "cpus"])).toBeUndefined();
  expect(nearestWord("x".repeat(10_000), ["memory"])).toBeUndefined();
});

describe("differences", () => {
  const changeOf = (before: string, after: string, rest: Partial<ServiceChange> = {}): ServiceChange =>
    ServiceChange.fromPartial({
      name: "web",
      action: "update",
      how: ["rolling", "scale"],
      before: readManifest("b", before).services[0]?.spec as never,
      after: readManifest("a", after).services[0]?.spec as never,
      ...rest,
    });

  test("field by field, in the words of the file", () => {
    const change = changeOf(
      body("  env: {A: one, B: two}", "  command: [a, b]", "replicas: 2"),
      body("  env: {B: three, C: 'f o u r'}", "  command: [a, c]", "replicas: 5"),
    );
    expect(changeLines(change)).toEqual([
      "~ web: containers replaced, scaled",
      '    ~ container.command: ["a","b"] → ["a","c"]',
      "    - container.env.A: one",
      "    ~ container.env.B: two → three",
      '    + container.env.C: "f o u r"',
      "    ~ replicas: 2 → 5",
    ]);
  });

  test("another image under the same name is one", () => {
    const change = changeOf(body(), body());
    if (change.before?.template !== undefined) change.before.template.imageDigest = "sha256:a";
    if (change.after?.template !== undefined) change.after.template.imageDigest = "sha256:b";
    expect(fieldChanges(change)).toEqual([
      { sign: "~", field: "container.image.digest", before: "sha256:a", after: "sha256:b" },
    ]);
  });

  test("none is said in one line, a new service in full", () => {
    expect(changeLines(changeOf(body(), body(), { action: "none", how: [] }))).toEqual(["= web: no change"]);
    const created = ServiceChange.fromPartial({
      name: "web",
      action: "create",
      after: readManifest("a", body()).services[0]?.spec as never,
    });
    expect(changeLines(created)).toEqual([
      "+ web: new",
      "    + container.image: redis",
      "    + name: web",
      "    + replicas: 1",
    ]);
  });
});
