import { expect, test } from "vitest";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { AllocationState, DesiredState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { command } from "../plan/command.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { chainOf, LONGEST_CHAIN } from "./checkpoint-chain.ts";
import { newestCheckpoint } from "./checkpoint-fit.ts";

const web = idOf(1);
const key = Buffer.alloc(32, 5);
const started = (
  id: number,
  rest: { keepers?: string[]; epoch?: number; reason?: string; baseId?: string } = {},
) =>
  command("checkpointStarted", {
    id: idOf(id),
    containerId: web,
    epoch: 1,
    keepers: ["n2", "n3"],
    key,
    reason: "operator",
    baseId: "",
    ...rest,
  });
const stored = (id: number, baseId = "") =>
  command("checkpointStored", {
    id: idOf(id),
    sizeBytes: 9,
    memoryBytes: 8,
    blackoutMs: 7,
    baseId,
    wholeBytes: 10,
  });
const failed = (id: number) => command("checkpointFailed", { id: idOf(id), error: "n3: no room" });
const removed = (id: number) => command("checkpointRemoved", { id: idOf(id) });
const known = (drive: Drive): string[] => Object.keys(drive.cluster.state.checkpoints).toSorted();
const ids = (...numbers: number[]): string[] => numbers.map(idOf).toSorted();
const restored = (id: number, node: string, epoch = 2) =>
  command("containerRestored", { containerId: web, checkpointId: idOf(id), node, epoch });

const site = (): Drive => {
  const drive = new Drive("n1", "n2", "n3");
  drive.run(1, "web", "n1");
  return drive;
};
const stop = (drive: Drive): void => {
  drive.must(
    command("containerDesiredSet", { id: web, desired: DesiredState.STOPPED, restartGeneration: 0 }),
  );
  drive.must(
    command("allocationObserved", {
      containerId: web,
      node: "n1",
      epoch: 1,
      state: AllocationState.EXITED,
      exitCode: 0,
      restarts: 0,
      message: "",
      health: HealthState.UNSPECIFIED,
    }),
  );
};

test.each([
  [started(9, { keepers: [] }), "invalid"],
  [started(9, { keepers: ["n1", "n2"] }), "invalid"],
  [started(9, { keepers: ["n2", "n2"] }), "invalid"],
  [started(9, { keepers: ["n2", "nowhere"] }), "refused"],
  [started(9, { epoch: 2 }), "refused"],
])("an order that makes no sense is refused (%#)", (one, code) => {
  expect(site().try(one)?.code).toBe(code);
});

test("one at a time; a newer periodic one takes the place of older ones, those by hand stay", () => {
  const drive = site();
  drive.must(started(7));
  expect(drive.try(started(8))?.message).toMatch(/being taken already/);
  expect(newestCheckpoint(drive.cluster, web)).toBeUndefined();
  drive.must(stored(7));
  for (const id of [8, 9]) {
    drive.atMs += 1_000;
    drive.must(started(id, { reason: "periodic" }));
    drive.must(stored(id));
  }
  expect(Object.keys(drive.cluster.state.checkpoints).toSorted()).toEqual([idOf(7), idOf(9)]);
  expect(newestCheckpoint(drive.cluster, web)?.id).toBe(idOf(9));
  expect([...(drive.cluster.index.keeping.get("n3") ?? [])].toSorted()).toEqual([idOf(7), idOf(9)]);
  drive.must(started(10));
  drive.must(failed(10));
  expect(drive.cluster.state.checkpoints[idOf(10)]).toMatchObject({
    state: CheckpointState.FAILED,
    error: "n3: no room",
  });
  drive.must(started(11));
  expect(drive.cluster.state.checkpoints[idOf(10)]).toBeUndefined();
});

test("what others build upon stays for them, unseen, and goes with the last of them", () => {
  const drive = site();
  drive.must(started(7, { reason: "periodic" }));
  expect(drive.try(started(8, { baseId: idOf(7) }))?.message).toMatch(/being taken already/);
  drive.must(stored(7));
  expect(drive.try(started(8, { baseId: idOf(9) }))?.message).toMatch(/no complete checkpoint/);
  expect(drive.try(started(8, { baseId: idOf(7), keepers: ["n2"] }))?.message).toMatch(/kept by others/);
  drive.must(started(8, { baseId: idOf(7), reason: "periodic" }));
  expect(drive.try(stored(8, idOf(9)))?.code).toBe("invalid");
  drive.must(stored(8, idOf(7)));
  expect(known(drive)).toEqual(ids(7, 8));
  expect(drive.cluster.state.checkpoints[idOf(7)]?.superseded).toBe(true);
  expect(drive.try(removed(7))?.code).toBe("not-found");
  expect([...(drive.cluster.index.keeping.get("n2") ?? [])].toSorted()).toEqual(ids(7, 8));
  // One by hand takes the place of periodic ones as well.
  drive.atMs += 1_000;
  drive.must(started(9, { baseId: idOf(8) }));
  drive.must(stored(9, idOf(8)));
  expect(newestCheckpoint(drive.cluster, web)?.id).toBe(idOf(9));
  expect(drive.try(removed(8))?.code).toBe("not-found");
  expect(known(drive)).toEqual(ids(7, 8, 9));
  drive.must(removed(9));
  expect(known(drive)).toEqual([]);
  expect(drive.cluster.index.keeping.size).toBe(0);
});

test("one that fails leaves what it was to build upon, one that holds everything after all lets it go", () => {
  const drive = site();
  drive.must(started(7, { reason: "periodic" }));
  drive.must(stored(7));
  drive.must(started(8, { baseId: idOf(7), reason: "periodic" }));
  drive.must(failed(8));
  expect(newestCheckpoint(drive.cluster, web)?.id).toBe(idOf(7));
  drive.must(started(9, { baseId: idOf(7), reason: "periodic" }));
  expect(known(drive)).toEqual(ids(7, 9));
  drive.must(stored(9));
  expect(known(drive)).toEqual(ids(9));
  drive.must(started(10, { baseId: idOf(9) }));
  drive.must(removed(9));
  expect(newestCheckpoint(drive.cluster, web)).toBeUndefined();
  expect(known(drive)).toEqual(ids(9, 10));
  drive.must(failed(10));
  expect(known(drive)).toEqual(ids(10));
});

test("no more than so many build upon one another", () => {
  const drive = site();
  for (let link = 0; link < LONGEST_CHAIN; link += 1) {
    const baseId = link === 0 ? "" : idOf(20 + link - 1);
    drive.must(started(20 + link, { baseId }));
    drive.must(stored(20 + link, baseId));
  }
  const last = idOf(20 + LONGEST_CHAIN - 1);
  expect(chainOf(drive.cluster, last)).toHaveLength(LONGEST_CHAIN);
  expect(drive.try(started(90, { baseId: last }))?.message).toMatch(/too many/);
});

test("only what has ended goes on from one, where it is kept, and then begins like any other", () => {
  const drive = site();
  drive.must(started(7));
  expect(drive.try(restored(7, "n2"))?.message).toMatch(/not stopped/);
  drive.must(stored(7));
  expect(drive.try(restored(7, "n2"))?.message).toMatch(/not stopped/);
  stop(drive);
  expect(drive.try(restored(7, "n1"))?.message).toMatch(/n1 does not keep it: n2 and n3 do/);
  expect(drive.try(restored(7, "n2", 3))?.message).toMatch(/not the next epoch/);
  drive.must(restored(7, "n2"));
  const container = drive.cluster.state.containers[web];
  expect(container).toMatchObject({
    desired: DesiredState.RUNNING,
    allocation: { node: "n2", epoch: 2, state: AllocationState.PENDING, restoreFrom: idOf(7) },
  });
  expect(drive.try(command("checkpointRemoved", { id: idOf(7) }))?.message).toMatch(/just going on/);
  drive.must(
    command("allocationObserved", {
      containerId: web,
      node: "n2",
      epoch: 2,
      state: AllocationState.RUNNING,
      exitCode: 0,
      restarts: 0,
      message: "",
      health: HealthState.UNSPECIFIED,
    }),
  );
  expect(container?.allocation?.restoreFrom).toBeUndefined();
  drive.must(command("checkpointRemoved", { id: idOf(7) }));
  expect(drive.cluster.index.keeping.size).toBe(0);
});

test("a lost node that is fenced lets its container go on from a checkpoint, one that is not does not", () => {
  const drive = site();
  drive.must(started(7));
  drive.must(stored(7));
  drive.must(command("nodeFenceSet", { node: "n1", fenceMs: 15_000, fault: "" }));
  drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
  const placed = command("allocationPlaced", {
    containerId: web,
    node: "n2",
    epoch: 2,
    checkpointId: idOf(7),
  });
  expect(drive.try(placed)?.message).toMatch(/already has a node/);
  drive.must(command("nodeFenced", { node: "n1" }));
  drive.must(placed);
  expect(drive.cluster.state.containers[web]?.allocation).toMatchObject({ node: "n2", restoreFrom: idOf(7) });
  drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.READY, reason: "" }));
  expect(drive.cluster.state.nodes["n1"]?.fenced).toBe(false);
  expect(drive.cluster.state.containers[web]?.allocation?.epoch).toBe(2);
});

test("checkpoints go with their container", () => {
  const drive = site();
  drive.must(started(7));
  drive.must(command("containerRemoveRequested", { id: web, force: true }));
  drive.must(command("containerRemoved", { id: web }));
  expect(drive.cluster.state.checkpoints).toEqual({});
  expect([drive.cluster.index.keeping.size, drive.cluster.index.taking.size]).toEqual([0, 0]);
});
