import { describe, expect, test } from "vitest";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { digestOf, memoryLimit } from "../testing/sample.ts";
import { command } from "./command.ts";
import { choosePlacement, PlannedUse } from "./placement.ts";

describe("the spread of a service", () => {
  const spreadOver = (replicas: number, spread: { label: string; maxSkew: number }[]): Drive => {
    const drive = new Drive("n1", "n2", "n3", "n4");
    for (const [node, zone] of Object.entries({ n1: "a", n2: "a", n3: "b" }))
      drive.must(command("nodeLabelsSet", { node, set: { zone }, remove: [] }));
    const spec = ServiceSpec.fromPartial({
      name: "web",
      replicas,
      spread,
      template: { image: "redis", imageDigest: digestOf("a") },
    });
    drive.must(command("servicesApplied", { services: [{ spec, expectedVersion: 0 }] }));
    for (let number = 1; number <= replicas; number += 1)
      drive.must(
        command("serviceContainerCreated", {
          id: idOf(number),
          service: "web",
          revision: 1,
          name: `web-${number}`,
        }),
      );
    return drive;
  };
  const choose = (drive: Drive, count: number): (string | undefined)[] => {
    const planned = new PlannedUse(drive.cluster);
    return Array.from({ length: count }, (_, at) => {
      const { node } = choosePlacement(drive.cluster, drive.container(at + 1), { planned });
      if (node !== undefined) planned.add(node, drive.container(at + 1));
      return node;
    });
  };

  test("without a word they lie apart, even where one node is much emptier", () => {
    const drive = spreadOver(3, []);
    for (const [at, node] of ["n2", "n3", "n4"].entries())
      drive.run(50 + at, `other-${at}`, node, memoryLimit(500));
    expect(choose(drive, 3).toSorted((a, b) => ((a ?? "") < (b ?? "") ? -1 : 1))).toEqual(["n1", "n2", "n3"]);
  });

  test("over a label, then over the nodes", () => {
    const drive = spreadOver(4, [
      { label: "zone", maxSkew: 0 },
      { label: "", maxSkew: 0 },
    ]);
    // The node without a zone comes last; of the zone with two nodes both are used.
    expect(choose(drive, 4)).toEqual(["n1", "n3", "n2", "n3"]);
  });

  test("a rule holds also where it leaves a container without a node, and says so", () => {
    const drive = spreadOver(4, [{ label: "zone", maxSkew: 1 }]);
    drive.place(1, "n1");
    drive.place(2, "n3");
    drive.place(3, "n2");
    expect(drive.try(command("allocationPlaced", { containerId: idOf(4), node: "n1", epoch: 1 }))).toEqual({
      code: "refused",
      message: "node n1 would have more of the service than it may (spread over zone, maxSkew 1)",
    });
    expect(choosePlacement(drive.cluster, drive.container(4))).toEqual({ node: "n3" });
    drive.must(command("nodeSchedulableSet", { node: "n3", schedulable: false }));
    // A place that takes none does not count as the one with the fewest.
    expect(choosePlacement(drive.cluster, drive.container(4))).toEqual({ node: "n1" });
    drive.must(command("nodeSchedulableSet", { node: "n3", schedulable: true }));
    const failure = choosePlacement(drive.cluster, drive.container(4), { except: "n3" }).failure;
    expect(failure).toBe(
      "no node fits: 2 of 3 would have too many of the service (spread over zone, maxSkew 1), 1 of 3 has no label zone, over which the service is spread",
    );
  });
});
