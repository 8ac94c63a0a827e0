import { describe, expect, test } from "vitest";
import { MigrationPhase, MigrationReport } from "../../../proto/gen/godwit/v1/agent.ts";
import {
  AllocationState,
  Container,
  DesiredState,
  Migration,
  MigrationState,
  Node,
  NodeState,
  State,
} from "../../../proto/gen/godwit/v1/log.ts";
import { containerInfo, containerState } from "./container.ts";
import { migrationInfo, phaseOf } from "./migration.ts";
import { nodeState, nodeSummary } from "./node.ts";

const { RUNNING, STOPPED } = DesiredState;
const S = AllocationState;

describe("a container's state", () => {
  const of = (
    desired: DesiredState,
    state: AllocationState | undefined,
    rest: Partial<Container> = {},
    lost = false,
  ) =>
    containerState(
      Container.fromPartial({
        id: "c",
        desired,
        ...(state === undefined ? {} : { allocation: { node: "n1", state } }),
        ...rest,
      }),
      lost,
    );
  test.each([
    [of(RUNNING, undefined), "pending"],
    [of(STOPPED, undefined), "stopped"],
    [of(RUNNING, S.PENDING), "pending"],
    [of(RUNNING, S.STARTING), "starting"],
    [of(STOPPED, S.STARTING), "stopping"],
    [of(RUNNING, S.RUNNING), "running"],
    [of(STOPPED, S.RUNNING), "stopping"],
    [of(RUNNING, S.FROZEN), "frozen"],
    [of(RUNNING, S.EXITED), "exited"],
    [of(STOPPED, S.EXITED), "stopped"],
    [of(RUNNING, S.FAILED), "failed"],
    [of(RUNNING, S.RUNNING, { migrationId: "m" }), "migrating"],
    [of(RUNNING, S.FROZEN, { migrationId: "m" }), "migrating"],
    [of(RUNNING, S.RUNNING, {}, true), "lost"],
    [of(RUNNING, S.RUNNING, { migrationId: "m" }, true), "migrating"],
    [of(RUNNING, S.STARTING, { migrationId: "m" }, true), "lost"],
    [of(RUNNING, S.STARTING, { migrationId: "m" }), "migrating"],
    [of(STOPPED, S.RUNNING, { removing: true }, true), "removing"],
  ])("%s", (actual, expected) => expect(actual).toBe(expected));

  test("what is said about it is a copy", () => {
    const container = Container.fromPartial({
      id: "c",
      spec: { name: "web", labels: { a: "b" } },
      desired: RUNNING,
      placementFailure: "no room",
    });
    const state = State.fromPartial({ containers: { c: container } });
    const info = containerInfo(state, container, { memoryBytes: 7, blockers: [] });
    expect(info).toMatchObject({
      id: "c",
      state: "pending",
      message: "no room",
      memoryBytes: 7,
      desired: "running",
      node: "",
    });
    expect(info.spec).toEqual(container.spec);
    expect(info.spec).not.toBe(container.spec);
  });
});

describe("a migration", () => {
  const P = MigrationPhase;
  const runtime = (source?: MigrationPhase, target?: MigrationPhase) => ({
    ...(source === undefined
      ? {}
      : {
          source: MigrationReport.fromPartial({
            phase: source,
            bytesDone: 5,
            bytesTotal: 10,
            figures: { dumpMs: 60, sentBytes: 9 },
          }),
        }),
    ...(target === undefined
      ? {}
      : { target: MigrationReport.fromPartial({ phase: target, figures: { restoreMs: 40, sentBytes: 8 } }) }),
  });
  test.each([
    [undefined, undefined, ""],
    [undefined, P.PREPARING, "preparing"],
    [P.COPYING, P.RECEIVING, "copying"],
    [P.FROZEN, P.RECEIVING, "frozen"],
    [P.DUMPED, P.RECEIVING, "receiving"],
    [P.DUMPED, P.RESTORED, "restored"],
    [P.DUMPED, P.RUNNING, "running"],
    [P.COPYING, P.FAILED, "failed"],
  ])("%s and %s: %s", (source, target, phase) => expect(phaseOf(runtime(source, target))).toBe(phase));

  test("figures of both sides are put together; the log's win", () => {
    const record = Migration.fromPartial({
      id: "m",
      state: MigrationState.RUNNING,
      figures: { sentBytes: 7 },
    });
    const info = migrationInfo(record, runtime(P.DUMPED, P.RESTORED));
    expect(info).toMatchObject({
      state: "running",
      phase: "restored",
      bytesDone: 5,
      bytesTotal: 10,
      figures: { dumpMs: 60, restoreMs: 40, sentBytes: 7 },
    });
    expect(migrationInfo({ ...record, state: MigrationState.FINISHED }, undefined)).toMatchObject({
      state: "finished",
      phase: "",
      bytesDone: 0,
    });
  });
});

describe("a node", () => {
  test.each([
    [{ state: NodeState.READY, schedulable: true }, "ready"],
    [{ state: NodeState.LOST, schedulable: true, drain: { outcome: "" } }, "lost"],
    [{ state: NodeState.READY, schedulable: false, drain: { outcome: "" } }, "draining"],
    [{ state: NodeState.READY, schedulable: false, drain: { outcome: "drained" } }, "drained"],
    [{ state: NodeState.READY, schedulable: true, drain: { outcome: "drained" } }, "ready"],
    [{ state: NodeState.READY, schedulable: false, drain: { outcome: "failed: x" } }, "ready"],
  ])("%j is %s", (node, expected) => expect(nodeState(Node.fromPartial(node))).toBe(expected));

  test("adds up what is promised to its containers", () => {
    const node = Node.fromPartial({
      state: NodeState.READY,
      schedulable: true,
      info: { cpuMillis: 2000, memoryBytes: 100 },
    });
    const container = (id: string, on: string) =>
      Container.fromPartial({
        id,
        spec: { limits: { memoryBytes: 10, cpuMillis: 500 } },
        allocation: { node: on },
      });
    const state = State.fromPartial({
      nodes: { n1: node },
      containers: { a: container("a", "n1"), b: container("b", "n1"), c: container("c", "n2") },
    });
    expect(nodeSummary(state, "n1", node, undefined)).toMatchObject({
      containers: 2,
      memoryReservedBytes: 20,
      cpuReservedMillis: 1000,
      leaseMs: 0,
    });
  });
});
