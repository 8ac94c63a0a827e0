import { expect, test } from "vitest";

import { planCluster } from "./plan.ts";

test("names follow from the data folder alone, and differ between folders", () => {
  const plan = planCluster("/var/lib/godwit-dev", 2);
  expect(plan.key).toMatch(/^[0-9a-f]{6}$/);
  expect(planCluster("/var/lib/godwit-dev", 2)).toEqual(plan);
  expect(planCluster("/var/lib/godwit-dev2", 2).key).not.toBe(plan.key);
  expect(plan.nodes.map(({ name, netns, underlayAddress }) => [name, netns, underlayAddress])).toEqual([
    ["n1", `gw${plan.key}-n1`, "10.77.0.11"],
    ["n2", `gw${plan.key}-n2`, "10.77.0.12"],
  ]);
});

test.each([
  [0, "/x"],
  [65, "/x"],
  [1.5, "/x"],
  [1, "/run/godwit"],
  [1, "/sys"],
  [1, "/with blank"],
  [1, "relative"],
  [1, `/${"long".repeat(20)}`],
])("%d nodes in %s are refused", (nodes, dataDir) => {
  expect(() => planCluster(dataDir, nodes)).toThrow(/--nodes|--data/);
});
