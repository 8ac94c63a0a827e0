import { expect, test } from "vitest";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { command } from "../plan/command.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { digestOf, sampleImage } from "../testing/sample.ts";

const spec = (name: string, value: string, letter = "a"): ServiceSpec =>
  ServiceSpec.fromPartial({
    name,
    replicas: 2,
    template: { image: "redis", imageDigest: digestOf(letter), env: { V: value } },
  });
const apply = (drive: Drive, ...services: [ServiceSpec, number][]) =>
  drive.try(
    command("servicesApplied", {
      services: services.map(([one, expectedVersion]) => ({ spec: one, expectedVersion })),
    }),
  );

test("of two who apply at a time, the second is told, and nothing of his is done", () => {
  const drive = new Drive("n1");
  expect(apply(drive, [spec("a", "1"), 0])).toBeUndefined();
  expect(apply(drive, [spec("b", "1"), 0], [spec("a", "2"), 0])).toMatchObject({
    code: "refused",
    message: expect.stringContaining("a was changed by somebody else just now (version 1, not 0)"),
  });
  expect(Object.keys(drive.cluster.state.services)).toEqual(["a"]);
  expect(apply(drive, [spec("b", "1"), 0], [spec("a", "2"), 1])).toBeUndefined();
  expect(drive.cluster.state.services["a"]).toMatchObject({ version: 2, revision: 2, stableRevision: 0 });
  drive.must(command("serviceRemoveRequested", { name: "b" }));
  drive.must(command("serviceRemoved", { name: "b" }));
  expect(apply(drive, [spec("b", "1"), 1])?.message).toContain("b was removed by somebody else just now");
});

test("what is the same changes nothing, not even the version", () => {
  const drive = new Drive("n1");
  expect(apply(drive, [spec("a", "1"), 0])).toBeUndefined();
  expect(apply(drive, [spec("a", "1"), 1])).toBeUndefined();
  expect(drive.cluster.state.services["a"]).toMatchObject({ version: 1, revision: 1 });
});

test("the image that a service would go back to is kept, and let go when nothing needs it", () => {
  const drive = new Drive("n1");
  expect(apply(drive, [spec("a", "1"), 0])).toBeUndefined();
  const ended = (revision: number): void =>
    drive.must(command("serviceRolloutEnded", { name: "a", revision, failure: "" }));
  ended(1);
  drive.must(command("imageAdded", { image: sampleImage("redis", "b") }));
  expect(drive.cluster.state.images[digestOf("a")]).toBeDefined();
  expect(apply(drive, [spec("a", "1", "b"), 1])).toBeUndefined();
  expect(drive.cluster.state.images[digestOf("a")]).toBeDefined();
  expect(drive.try(command("imageRemoved", { name: "redis" }))?.message).toContain("the service a");
  ended(2);
  expect(drive.cluster.state.images[digestOf("a")]).toBeUndefined();
  expect(drive.try(command("serviceRolledBack", { name: "a", revision: 1 }))?.code).toBe("not-found");
});

test("no more than ten revisions are remembered, the one to go back to among them", () => {
  const drive = new Drive("n1");
  expect(apply(drive, [spec("a", "0"), 0])).toBeUndefined();
  drive.must(command("serviceRolloutEnded", { name: "a", revision: 1, failure: "" }));
  for (let at = 1; at < 20; at += 1) expect(apply(drive, [spec("a", String(at)), at])).toBeUndefined();
  const revisions = drive.cluster.state.services["a"]?.history.map(({ revision }) => revision);
  expect(revisions).toEqual([1, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
  drive.must(command("serviceRolloutEnded", { name: "a", revision: 20, failure: "ill" }));
  expect(drive.cluster.state.services["a"]).toMatchObject({ revision: 1, lastRevision: 20 });
});

test("a container on its way out cannot be started, and one that moves cannot be sent there", () => {
  const drive = new Drive("n1", "n2");
  expect(apply(drive, [spec("a", "1"), 0])).toBeUndefined();
  for (const number of [1, 2]) {
    const id = idOf(number);
    drive.must(command("serviceContainerCreated", { id, service: "a", revision: 1, name: `a-${number}` }));
    drive.place(number, "n1");
    drive.observe(number, "ALLOCATION_STATE_RUNNING");
  }
  drive.must(command("serviceContainerRetired", { id: idOf(1) }));
  const start = { id: idOf(1), desired: "DESIRED_STATE_RUNNING", restartGeneration: 1 } as const;
  expect(drive.try(command("containerDesiredSet", start))?.message).toContain("on its way out");
  expect(drive.startMove(9, 2, "n2")).toBeUndefined();
  expect(drive.try(command("serviceContainerRetired", { id: idOf(2) }))?.message).toContain("is moving");
});
