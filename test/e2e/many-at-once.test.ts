/** A host has more moves under way at a time than it has threads that could wait for them. */
import { afterAll, beforeAll, expect, test } from "vitest";

import { REDIS_COMMAND, TestCluster } from "./cluster.ts";

const MANY = 12;
const names = Array.from({ length: MANY }, (_, index) => `store-${index}`);

interface Drain {
  readonly state: string;
  readonly moved: readonly { readonly container: string; readonly mode: string }[];
  readonly failed: readonly unknown[];
}

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await TestCluster.start(2);
  for (const name of names) {
    await cluster.must("run", "--node", "n1", "--memory", "64m", name, "redis", "--", ...REDIS_COMMAND);
    await cluster.sh(name, `redis-cli set who ${name}`);
  }
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

test("a drain with all of a host's containers at a time moves all of them live, and back again", async () => {
  for (const [from, to] of [
    ["n1", "n2"],
    ["n2", "n1"],
  ] as const) {
    const drain = await cluster.json<Drain>("node", "drain", from, "--parallel", String(MANY));
    expect(drain).toMatchObject({ state: "drained", failed: [] });
    expect(drain.moved.map(({ container }) => container).sort()).toEqual([...names].sort());
    expect(drain.moved.every(({ mode }) => mode === "precopy")).toBe(true);
    for (const name of names) {
      expect((await cluster.container(name)).node).toBe(to);
      expect((await cluster.sh(name, "redis-cli get who")).trim()).toBe(name);
    }
    await cluster.must("node", "uncordon", from);
  }
});
