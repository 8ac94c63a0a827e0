/** What a person is told about a container, from the replicated state. Pure. */
import type { ContainerInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { AllocationState, DesiredState, NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, HealthState } from "../../../proto/gen/godwit/v1/spec.ts";
import { whyItWaits, type ContainerRuntime, type DeepReadonlyState } from "../../../scheduler/mod.ts";

export type ContainerRecord = DeepReadonlyState["containers"][string];

type ContainerStateName =
  | "pending"
  | "starting"
  | "running"
  | "migrating"
  | "frozen"
  | "stopping"
  | "stopped"
  | "exited"
  | "failed"
  | "lost"
  | "removing";

/** `nodeLost`: the node that owns it has not renewed its lease, so nobody knows how the container is. */
export function containerState(container: ContainerRecord, nodeLost: boolean): ContainerStateName {
  if (container.removing) return "removing";
  const isStopped = container.desired === DesiredState.STOPPED;
  const allocation = container.allocation;
  if (allocation === undefined) return isStopped ? "stopped" : "pending";
  // Until it is given a node again, it has to leave the one that it is on.
  const stop = isStopped || container.preemption?.endedAtMs === 0;
  // A migration whose source died is still being decided about; after the switch there is nothing to decide.
  const isSwitched = allocation.state === AllocationState.STARTING;
  if (nodeLost && (container.migrationId === "" || isSwitched)) return "lost";
  if (container.migrationId !== "") return "migrating";
  switch (allocation.state) {
    case AllocationState.UNSPECIFIED:
    case AllocationState.PENDING:
      return stop ? "stopped" : "pending";
    case AllocationState.STARTING:
      return stop ? "stopping" : "starting";
    case AllocationState.RUNNING:
      return stop ? "stopping" : "running";
    case AllocationState.FROZEN:
      return "frozen";
    case AllocationState.EXITED:
      return stop ? "stopped" : "exited";
    case AllocationState.FAILED:
      return "failed";
  }
}

const HEALTH: Readonly<Record<HealthState, string>> = {
  [HealthState.UNSPECIFIED]: "",
  [HealthState.STARTING]: "starting",
  [HealthState.HEALTHY]: "healthy",
  [HealthState.UNHEALTHY]: "unhealthy",
};

function lostMessage(state: DeepReadonlyState, container: ContainerRecord, name: string): string {
  const node = state.nodes[name];
  const why = whyItWaits(container);
  const lost = `its node ${name} does not report`;
  if (node === undefined || node.fenceMs === 0 || state.failoverOff) return `${lost}; it may still run there`;
  const stands = node.fenced ? "stands still there" : "stands still there by itself soon";
  return why === undefined
    ? `${lost}; it ${stands}, and goes on elsewhere then`
    : `${lost}; it ${stands} and waits: ${why}`;
}
const waitingMessage = ({ nominatedNode, placementFailure }: ContainerRecord): string =>
  nominatedNode === ""
    ? placementFailure
    : `others of a lower priority make room for it on ${nominatedNode} (${placementFailure})`;

export function containerInfo(
  state: DeepReadonlyState,
  container: ContainerRecord,
  runtime?: Partial<ContainerRuntime>,
): ContainerInfo {
  const allocation = container.allocation;
  const nodeLost = allocation !== undefined && state.nodes[allocation.node]?.state === NodeState.LOST;
  const message = allocation === undefined || nodeLost ? waitingMessage(container) : allocation.message;
  return {
    id: container.id,
    // The state is changed in place: what leaves must be a copy.
    spec:
      container.spec === undefined ? undefined : ContainerSpec.fromPartial(container.spec as ContainerSpec),
    state: containerState(container, nodeLost),
    node: allocation?.node ?? "",
    epoch: allocation?.epoch ?? 0,
    address: container.address,
    restarts: allocation?.restarts ?? 0,
    exitCode: allocation?.exitCode ?? 0,
    message: nodeLost && message === "" ? lostMessage(state, container, allocation.node) : message,
    createdAtMs: container.createdAtMs,
    migrationId: container.migrationId,
    ...(allocation === undefined && container.nominatedNode !== ""
      ? { nominatedNode: container.nominatedNode }
      : {}),
    memoryBytes: runtime?.memoryBytes ?? 0,
    blockers: [...(runtime?.blockers ?? [])],
    health: HEALTH[allocation?.health ?? HealthState.UNSPECIFIED],
    healthOutput: runtime?.healthOutput ?? "",
    restartInMs: runtime?.restartInMs ?? 0,
    service: container.service,
    serviceRevision: container.serviceRevision,
    desired: container.desired === DesiredState.STOPPED ? "stopped" : "running",
  };
}
