import type { Seen, Used } from "../../proto/contract/report-book.ts";
import { networkBytes } from "../native/network-bytes.ts";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import type { ContainerCgroup } from "../container/cgroup.ts";
import type { Step } from "../model/next-step.ts";
import { groupPressure } from "../node/pressure.ts";
import type { Findings } from "../obstacles/inspect.ts";
import type { ContainerRecord, RecordStatus } from "../model/record.ts";

/** What the leader is told of a container as soon as it changes. */
export function observe(
  record: ContainerRecord,
  step: Step,
  findings: Findings | undefined,
): Omit<Seen, "restartInMs"> {
  const { status } = record;
  return {
    containerId: record.containerId,
    epoch: record.epoch,
    state: stateOf(status, step),
    exitCode: status.kind === "stopped" ? status.exitCode : 0,
    restarts: record.restarts,
    message: status.kind === "stopped" ? status.message : "",
    restartGeneration: record.restartGeneration,
    blockers: [...(findings?.blockers ?? [])],
    needs: [...(findings?.needs ?? [])],
    health: healthOf(record),
  };
}

/** And what it is told of it from time to time. */
export function usageOf(status: RecordStatus, cgroup: ContainerCgroup): Omit<Used, "healthOutput"> {
  const io = cgroup.blockIoBytes();
  const network = status.kind === "running" ? networkBytes(status.init.pid) : undefined;
  const pressure = cgroup.pressureFolder === undefined ? undefined : groupPressure(cgroup.pressureFolder);
  return {
    memoryBytes: cgroup.memoryBytes(),
    cpuUsageUsec: cgroup.cpuUsageUsec(),
    pids: cgroup.pidsCount(),
    ...(io === undefined ? {} : { readBytes: io.read, writtenBytes: io.written }),
    ...(network === undefined ? {} : { receivedBytes: network.received, sentBytes: network.sent }),
    ...(pressure === undefined ? {} : { pressure }),
  };
}

/** Without a check, and of one that does not run, there is nothing to say. */
function healthOf({ health, spec, status }: ContainerRecord): HealthState {
  if (spec.health === undefined || status.kind === "stopped") return HealthState.UNSPECIFIED;
  return health === undefined || health === HealthState.UNSPECIFIED ? HealthState.STARTING : health;
}

function stateOf(status: RecordStatus, step: Step): AllocationState {
  switch (status.kind) {
    case "stopped":
      return status.failed ? AllocationState.FAILED : AllocationState.EXITED;
    case "starting":
    case "restoring":
      return AllocationState.STARTING;
    case "running":
      return AllocationState.RUNNING;
    case "frozen":
    case "halted":
      // A standstill is a phase of a migration, told there; the container itself is still the running one.
      // Nor is that of a checkpoint a state of its own.
      return step.kind === "copy" || step.kind === "checkpoint"
        ? AllocationState.RUNNING
        : AllocationState.FROZEN;
  }
}
