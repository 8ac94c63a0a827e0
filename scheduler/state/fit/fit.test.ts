import { expect, test } from "vitest";
import { Image, type ContainerSpec } from "../../../proto/gen/godwit/v1/spec.ts";
import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import { command } from "../../plan/command.ts";
import { choosePlacement } from "../../plan/placement.ts";
import { Drive } from "../../testing/drive.ts";
import { digestOf, memoryLimit, MIB, sampleImage, sampleNode } from "../../testing/sample.ts";
import { demandOf } from "./demand.ts";
import { obstaclesOf, spotOf } from "./fit.ts";

const WEB = [{ key: "app", value: "web" }];
const constraint = (key: string, value: string, unequal = false) => ({
  constraints: [{ key, value, unequal }],
});
const port = (hostPort: number, protocol = "tcp") => ({ ports: [{ hostPort, containerPort: 80, protocol }] });

/** n1: amd64, zone a by its own configuration and b by an operator, with c1 (app=web, port 80) and a disk of 10 MiB. */
const scene = (): Drive => {
  const drive = new Drive();
  const info = sampleNode("n1", {
    arch: "x64",
    kernel: "6.1.0",
    labels: { zone: "a", rack: "r1" },
    diskBytes: 10 * MIB,
  });
  drive.must(command("nodeJoined", { info, incarnation: "i" }));
  drive.must(command("nodeLabelsSet", { node: "n1", set: { zone: "b" }, remove: [] }));
  drive.run(1, "c1", "n1", { labels: { app: "web" }, ...port(80) });
  return drive;
};

test.each<[string, Partial<ContainerSpec>, RegExp | undefined]>([
  ["nothing asked for", {}, undefined],
  ["an operator's label", constraint("zone", "b"), undefined],
  [
    "the host's own label, which the operator's covers",
    constraint("zone", "a"),
    /does not satisfy.* zone=a$/,
  ],
  ["the host's own label", constraint("rack", "r1"), undefined],
  ["an unequal label", constraint("rack", "r1", true), /rack!=r1$/],
  ["a label that is not there", constraint("gpu", ""), /gpu=$/],
  ["a label that is not there, unequal", constraint("gpu", "yes", true), undefined],
  ["a builtin name", constraint("node.name", "n2"), /node\.name=n2$/],
  ["its architecture, as OCI names it", constraint("arch", "amd64"), undefined],
  ["its architecture, as Node.js names it", constraint("arch", "x64"), undefined],
  ["the beginning of its kernel", constraint("kernel", "6.*"), undefined],
  ["the beginning of another kernel", constraint("kernel", "5.*"), /kernel=5\.\*$/],
  ["a taken port", port(80), /port 80\/tcp of node n1 is published for another container/],
  ["the same number, another protocol", port(80, "udp"), undefined],
  ["a free port", port(81), undefined],
  ["company", { affinity: WEB }, undefined],
  ["company that is not there", { affinity: [{ key: "app", value: "db" }] }, /no container with app=db/],
  [
    "its own kind, as the first",
    { affinity: [{ key: "app", value: "db" }], labels: { app: "db" } },
    undefined,
  ],
  ["no such company", { antiAffinity: WEB }, /has a container with app=web/],
  [
    "a large disk",
    { limits: { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 11 * MIB } },
    /lacks 11 MiB of disk/,
  ],
  ["a small disk", { limits: { memoryBytes: 0, cpuMillis: 0, pids: 0, diskBytes: 9 * MIB } }, undefined],
])("one node: %s", (_, spec, reason) => {
  const drive = scene();
  const container = drive.create(9, "new", spec);
  const node = drive.cluster.state.nodes["n1"];
  if (node === undefined) throw new Error("no n1");
  const messages = obstaclesOf(demandOf(drive.cluster, container), spotOf(drive.cluster, "n1", node)).map(
    ({ message }) => message,
  );
  expect(messages).toEqual(reason === undefined ? [] : [expect.stringMatching(reason)]);
  // What the log makes of it is the same.
  const placed = drive.try(command("allocationPlaced", { containerId: container.id, node: "n1", epoch: 1 }));
  expect(placed?.message).toEqual(reason === undefined ? undefined : expect.stringMatching(reason));
});

test("anti-affinity holds for those that come later, too", () => {
  const drive = new Drive("n1", "n2");
  drive.run(1, "alone", "n1", { antiAffinity: WEB });
  const web = drive.create(2, "web", { labels: { app: "web" } });
  expect(choosePlacement(drive.cluster, web)).toEqual({ node: "n2" });
  drive.place(2, "n2");
  expect(drive.startMove(7, 1, "n2")?.message).toMatch(/has a container with app=web/);
});

test("a container is not in its own way, and what is leaving still is", () => {
  const drive = new Drive("n1", "n2");
  drive.run(1, "a", "n1", { labels: { app: "web" }, antiAffinity: WEB, ...port(80) });
  expect(drive.startMove(7, 1, "n2")).toBeUndefined();
  const other = drive.create(2, "b", port(80));
  expect(choosePlacement(drive.cluster, other).failure).toMatch(/2 of 2 have their port 80\/tcp taken/);
});

test("an image for another machine", () => {
  const drive = new Drive();
  drive.must(
    command("imageAdded", { image: Image.fromPartial({ ...sampleImage("arm", "b"), arch: "arm64" }) }),
  );
  const join = (name: string, arch: string) =>
    drive.must(command("nodeJoined", { info: sampleNode(name, { arch }), incarnation: name }));
  join("n1", "x64");
  join("n2", "arm64");
  const container = drive.create(1, "a", { image: "arm", imageDigest: digestOf("b") });
  expect(choosePlacement(drive.cluster, container)).toEqual({ node: "n2" });
});

test("reasons of very many nodes are counted, not listed", () => {
  const drive = new Drive();
  for (let at = 0; at < 200; at += 1) {
    const info = sampleNode(`m${at}`, { labels: { zone: at % 4 === 0 ? "a" : "b" } });
    drive.must(command("nodeJoined", { info, incarnation: "i" }));
    if (at % 4 === 0 && at % 8 === 0)
      drive.must(command("nodeStateChanged", { node: `m${at}`, state: NodeState.LOST, reason: "" }));
  }
  const container = drive.create(1, "a", { ...memoryLimit(2000), ...constraint("zone", "a") });
  expect(choosePlacement(drive.cluster, container).failure).toBe(
    "no node fits: 150 of 200 do not satisfy zone=a, 25 of 200 lack 2 GiB of memory (m4 has most free: 1 GiB), 25 of 200 lost",
  );
});
