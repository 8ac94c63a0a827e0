import { describe, expect, test } from "vitest";
import { AllocationState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import type { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { ServiceSpec as ServiceSpecMessage } from "../../proto/gen/godwit/v1/service.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { digestOf } from "../testing/sample.ts";
import { command } from "./command.ts";
import { disruptionCheck, disruptionsAllowed, PlannedDisruptions } from "./disruption.ts";

/** A service "web" whose containers 1…replicas run on n1 and n2 in turn. */
const webOf = (replicas: number, rest: Partial<ServiceSpec> = {}): Drive => {
  const drive = new Drive("n1", "n2");
  const spec = ServiceSpecMessage.fromPartial({
    name: "web",
    replicas,
    template: { image: "redis", imageDigest: digestOf("a") },
    ...rest,
  });
  drive.must(command("servicesApplied", { services: [{ spec, expectedVersion: 0 }] }));
  for (let number = 1; number <= replicas; number += 1) {
    const name = `web-${number}`;
    drive.must(command("serviceContainerCreated", { id: idOf(number), service: "web", revision: 1, name }));
    drive.place(number, number % 2 === 1 ? "n1" : "n2");
    drive.observe(number, AllocationState.RUNNING);
  }
  return drive;
};

/** Numbers of the containers that one round may disrupt when it asks for all in turn. */
const disruptable = (drive: Drive, count: number): number[] => {
  const planned = new PlannedDisruptions(drive.cluster);
  const numbers: number[] = [];
  for (let number = 1; number <= count; number += 1) {
    if (disruptionCheck(drive.cluster, planned, drive.container(number)) !== undefined) continue;
    planned.add(drive.container(number));
    numbers.push(number);
  }
  return numbers;
};

describe("how many of a service may be disrupted in one round", () => {
  test.each([
    ["one, where nothing is said", 3, undefined, 1],
    ["a number", 4, { $case: "maxUnavailable", value: 2 }, 2],
    ["none", 4, { $case: "maxUnavailable", value: 0 }, 0],
    ["a share", 4, { $case: "maxUnavailablePercent", value: 50 }, 2],
    ["a share, rounded up", 4, { $case: "maxUnavailablePercent", value: 30 }, 2],
    ["more than there are", 2, { $case: "maxUnavailable", value: 9 }, 2],
  ] as const)("%s", (_, replicas, limit, allowed) => {
    const drive = webOf(replicas, {
      ...(limit === undefined ? {} : { disruption: { limit } }),
      update: {
        batch: 1,
        pauseMs: 0,
        order: "UPDATE_ORDER_START_FIRST",
        onFailure: "ON_FAILURE_ROLLBACK",
        monitorMs: 0,
        timeoutMs: 0,
      },
    });
    expect(disruptable(drive, replicas)).toHaveLength(allowed);
  });

  test("those that are down already count, whatever the reason, and may be disrupted themselves", () => {
    const drive = webOf(4, { disruption: { limit: { $case: "maxUnavailable", value: 2 } } });
    drive.observe(2, AllocationState.EXITED, 1);
    expect(disruptable(drive, 4)).toEqual([1, 2]);
    drive.observe(4, AllocationState.RUNNING, 0, HealthState.UNHEALTHY);
    expect(disruptable(drive, 4)).toEqual([2, 4]);
    drive.observe(4, AllocationState.RUNNING, 0, HealthState.STARTING);
    expect(disruptable(drive, 4)).toEqual([2, 4]);
    drive.observe(2, AllocationState.RUNNING);
    drive.observe(4, AllocationState.RUNNING, 0, HealthState.HEALTHY);
    expect(disruptable(drive, 4)).toEqual([1, 2]);
  });

  test("what is on a lost node counts as down", () => {
    const drive = webOf(4);
    drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "" }));
    expect(disruptable(drive, 4)).toEqual([2, 4]);
  });

  test("one that was told to restart is down until it is seen to be up again", () => {
    const drive = webOf(3);
    const { desired } = drive.container(1);
    drive.must(command("containerDesiredSet", { id: idOf(1), desired, restartGeneration: 1 }));
    expect(disruptable(drive, 3)).toEqual([1]);
    drive.observe(1, AllocationState.RUNNING);
    expect(disruptable(drive, 3)).toEqual([1]);
    expect(disruptionsAllowed(drive.cluster, new PlannedDisruptions(drive.cluster), "web")).toBe(1);
  });

  test("one that moves live is not down, also when it has been switched and its target has not reported", () => {
    const drive = webOf(3);
    expect(drive.startMove(9, 1, "n2")).toBeUndefined();
    expect(disruptionsAllowed(drive.cluster, new PlannedDisruptions(drive.cluster), "web")).toBe(1);
    drive.must(command("migrationSwitched", { id: idOf(9) }));
    drive.observe(1, AllocationState.STARTING);
    expect(disruptionsAllowed(drive.cluster, new PlannedDisruptions(drive.cluster), "web")).toBe(1);
  });

  test("more than are wanted may go; of a service that is being removed, all", () => {
    const drive = webOf(4);
    drive.must(command("serviceScaled", { name: "web", replicas: 2 }));
    expect(disruptable(drive, 4)).toEqual([1, 2, 3]);
    drive.must(command("serviceRemoveRequested", { name: "web" }));
    expect(disruptable(drive, 4)).toEqual([1, 2, 3, 4]);
  });
});

test("a container of no service asks nobody; a refusal says what is missing", () => {
  const drive = webOf(2);
  drive.run(7, "alone", "n1");
  const planned = new PlannedDisruptions(drive.cluster);
  expect(disruptionCheck(drive.cluster, planned, drive.container(7))).toBeUndefined();
  planned.add(drive.container(1));
  expect(disruptionCheck(drive.cluster, planned, drive.container(2))).toEqual({
    code: "refused",
    message:
      "web-2 has to stay for now: 1 of 2 containers of its service web are available, and at most 1 may be missing",
  });
});
