import { expect, test } from "vitest";
import { MigrationPhase, Role, type DesiredAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, DesiredState } from "../../proto/gen/godwit/v1/log.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { digestOf, sampleImage } from "../testing/sample.ts";
import { command } from "./command.ts";
import { desiredFor, peersOf } from "./desired.ts";

const ID = idOf(7);
const setup = (): { drive: Drive; volatile: FakeVolatile; on: (node: string) => DesiredAllocation[] } => {
  const drive = new Drive("n1", "n2", "n3");
  drive.run(1, "web", "n1");
  const volatile = new FakeVolatile();
  return { drive, volatile, on: (node) => desiredFor(drive.cluster, volatile, node)?.allocations ?? [] };
};

test("a plain owner, its network and peers", () => {
  const { drive, on, volatile } = setup();
  expect(on("n1")).toEqual([
    {
      containerId: idOf(1),
      health: "HEALTH_STATE_UNSPECIFIED",
      spec: drive.container(1).spec,
      epoch: 1,
      role: Role.OWNER,
      desired: DesiredState.RUNNING,
      restartGeneration: 0,
      inheritsEpoch: 0,
      address: "10.80.0.2/12",
      mac: "02:57:0a:50:00:02",
      image: sampleImage(),
      migration: undefined,
    },
  ]);
  expect(on("n2")).toEqual([]);
  expect(desiredFor(drive.cluster, volatile, "n2")).toMatchObject({
    network: { vni: 4788, cidr: "10.80.0.0/12", nodeAddress: "10.95.224.2/12", mtu: 1450 },
  });
  expect(peersOf(drive.cluster)).toMatchObject([{ node: "n1" }, { node: "n2" }, { node: "n3" }]);
  expect(desiredFor(drive.cluster, volatile, "n9")).toBeUndefined();
});

test("the roles of a migration from its start to its end", () => {
  const { drive, on, volatile } = setup();
  drive.startMove(7, 1, "n2");
  expect(on("n1")).toMatchObject([
    { role: Role.SOURCE, epoch: 1, migration: { id: ID, peerNode: "n2", copy: false, switched: false } },
  ]);
  expect(on("n2")).toMatchObject([
    { role: Role.TARGET, epoch: 2, migration: { id: ID, peerNode: "n1", copy: false, switched: false } },
  ]);
  volatile.migration(ID, "target", MigrationPhase.READY);
  expect(on("n1")).toMatchObject([{ role: Role.SOURCE, migration: { copy: true } }]);
  expect(on("n2")).toMatchObject([{ role: Role.TARGET, migration: { copy: false } }]);
  drive.must(command("migrationSwitched", { id: ID }));
  // The frozen copy stays until the container is known to run.
  expect(on("n1")).toMatchObject([
    { role: Role.SOURCE, epoch: 1, migration: { id: ID, peerNode: "n2", switched: true } },
  ]);
  expect(on("n2")).toMatchObject([
    { role: Role.OWNER, epoch: 2, migration: { id: ID, peerNode: "n1", switched: true } },
  ]);
  volatile.migration(ID, "target", MigrationPhase.RUNNING);
  expect(on("n1")).toMatchObject([
    { role: Role.RELEASED, epoch: 1, migration: { id: ID, peerNode: "n2", switched: true } },
  ]);
  drive.must(command("migrationFinished", { id: ID, figures: undefined }));
  expect(on("n1")).toEqual([]);
  expect(on("n2")).toMatchObject([{ role: Role.OWNER, epoch: 2, migration: undefined }]);
});

test("the source keeps its frozen copy while the target's host stands still with what it has restored", () => {
  const { drive, on, volatile } = setup();
  drive.startMove(7, 1, "n2");
  drive.must(command("migrationSwitched", { id: ID }));
  const held = { containerId: idOf(1), epoch: 2, state: AllocationState.RUNNING };
  volatile.migration(ID, "target", MigrationPhase.RUNNING);
  volatile.report("n2", [held], true, { fenceClosed: true });
  expect(on("n1")).toMatchObject([{ role: Role.SOURCE, migration: { switched: true } }]);
  volatile.report("n2", [held]);
  expect(on("n1")).toMatchObject([{ role: Role.RELEASED }]);
  // What has ended has no need of it, whatever stands still there.
  volatile.report("n2", [{ ...held, state: AllocationState.EXITED }], true, { fenceClosed: true });
  expect(on("n1")).toMatchObject([{ role: Role.RELEASED }]);
});

test("after an abort the source is the owner again and the target has nothing", () => {
  const { drive, on } = setup();
  drive.startMove(7, 1, "n2");
  drive.must(command("migrationAborted", { id: ID, reason: "x" }));
  expect(on("n1")).toMatchObject([{ role: Role.OWNER, epoch: 1, migration: undefined }]);
  expect(on("n2")).toEqual([]);
});

test("what is being removed is named nowhere, whatever it was doing", () => {
  for (const prepare of [
    () => undefined,
    (drive: Drive) => void drive.startMove(7, 1, "n2"),
    (drive: Drive) => {
      drive.startMove(7, 1, "n2");
      drive.must(command("migrationSwitched", { id: ID }));
    },
  ]) {
    const { drive, on } = setup();
    prepare(drive);
    drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
    expect([...on("n1"), ...on("n2")]).toEqual([]);
  }
});

test("a container keeps the image that it was created from", () => {
  const { drive, on } = setup();
  drive.must(command("imageAdded", { image: sampleImage("redis", "b") }));
  expect(on("n1")[0]?.image?.digest).toBe(digestOf("a"));
});

test("every change of what a node has to do marks the node", () => {
  const { drive } = setup();
  const touched = (change: () => void): string[] => {
    drive.cluster.touched.clear();
    change();
    return [...drive.cluster.touched.keys()].toSorted();
  };
  expect(touched(() => void drive.startMove(7, 1, "n2"))).toEqual(["n1", "n2"]);
  expect(touched(() => drive.must(command("migrationSwitched", { id: ID })))).toEqual(["n1", "n2"]);
  expect(touched(() => drive.must(command("migrationFinished", { id: ID, figures: undefined })))).toEqual([
    "n1",
    "n2",
  ]);
  expect(
    touched(() =>
      drive.must(
        command("containerDesiredSet", { id: idOf(1), desired: DesiredState.STOPPED, restartGeneration: 0 }),
      ),
    ),
  ).toEqual(["n2"]);
  expect(
    touched(() => drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }))),
  ).toEqual(["n2"]);
  expect(
    touched(() => drive.must(command("nodeSchedulableSet", { node: "n1", schedulable: false }))),
  ).toEqual([]);
});
