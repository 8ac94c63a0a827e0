import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { VmCluster } from "./cluster.ts";

describe("a machine whose CPU can do less", () => {
  let cluster: VmCluster;
  beforeAll(async () => {
    cluster = await VmCluster.start([
      { name: "n1", kernel: "trixie" },
      { name: "n2", kernel: "bookworm", cpu: "Nehalem" },
    ]);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("takes nothing that may use what it lacks; what began there may go to the other", async () => {
    for (const [name, node] of [
      ["strong", "n1"],
      ["weak", "n2"],
    ] as const)
      await cluster.must("run", "--node", node, name, "redis", "--", "sleep", "100000");
    const refused = await cluster.cli(["move", "strong", "n2"]);
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain("the CPU of node n2 lacks");
    expect(await cluster.container("strong")).toMatchObject({ node: "n1", state: "running" });
    expect(await cluster.json("move", "weak", "n1")).toMatchObject({ state: "finished", to: "n1" });
  });
});
