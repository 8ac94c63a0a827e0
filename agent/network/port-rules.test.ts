import { expect, test } from "vitest";

import { DesiredAllocation, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { DesiredState } from "../../proto/gen/godwit/v1/log.ts";
import { forwardsOf, rulesOf } from "./port-rules.ts";

const allocation = (rest: Parameters<typeof DesiredAllocation.fromPartial>[0]): DesiredAllocation =>
  DesiredAllocation.fromPartial({
    role: Role.OWNER,
    desired: DesiredState.RUNNING,
    address: "10.88.0.2/16",
    spec: { ports: [{ hostPort: 8080, containerPort: 80, protocol: "tcp" }] },
    ...rest,
  });

const WEB = { protocol: "tcp", hostPort: 8080, address: "10.88.0.2", containerPort: 80 };

test.each<[string, Parameters<typeof DesiredAllocation.fromPartial>[0], boolean]>([
  ["the owner", {}, true],
  ["what is stopped", { desired: DesiredState.STOPPED }, false],
  ["a target, before the container is there", { role: Role.TARGET }, true],
  ["a source that copies", { role: Role.SOURCE, migration: { switched: false } }, true],
  [
    "a source that has only its frozen copy left",
    { role: Role.SOURCE, migration: { switched: true } },
    false,
  ],
  ["what was released", { role: Role.RELEASED }, false],
])("ports lead to %s or do not", (_, rest, leads) => {
  expect(forwardsOf([allocation(rest)])).toEqual(leads ? [WEB] : []);
});

test("what is no port or address never becomes a rule", () => {
  const odd = (hostPort: number, address = "10.88.0.2/16") =>
    allocation({ address, spec: { ports: [{ hostPort, containerPort: 80, protocol: "tcp" }] } });
  expect(forwardsOf([odd(0), odd(70_000), odd(80, "10.88.0.2; drop"), odd(80, "")])).toEqual([]);
});

test("equal ports make equal rules, whatever the order", () => {
  const dns = allocation({
    address: "10.88.0.3/16",
    spec: { ports: [{ hostPort: 53, containerPort: 5353, protocol: "udp" }] },
  });
  const one = rulesOf(forwardsOf([allocation({}), dns]), "br0");
  expect(rulesOf(forwardsOf([dns, allocation({})]), "br0")).toBe(one);
  expect(one).toContain("fib daddr type local tcp dport 8080 dnat to 10.88.0.2:80");
  expect(one).toContain("fib daddr type local udp dport 53 dnat to 10.88.0.3:5353");
  // The chains are filled anew and not made anew: connections that are there keep their way.
  expect(one).toMatch(/flush chain ip godwit-publish arriving/);
  expect(one).not.toMatch(/delete table/);
});
