/** When nothing is broken any more, everything has to come to what is wanted; this says what has not yet. */
import { AllocationState, DesiredState, NodeState, type Container } from "../../proto/gen/godwit/v1/log.ts";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { isRestarted } from "../../agent/model/restart-policy.ts";
import type { SimCluster } from "./cluster.ts";

const containerFault = (cluster: SimCluster, container: Container): string | undefined => {
  const { id, allocation, desired, migrationId, placementFailure, removing, spec } = container;
  const running = cluster.kernel.runningOn(id);
  const where = running.map(({ name }) => name).join() || "nowhere";
  if (removing) return `${id} is still being removed`;
  if (migrationId !== "") return `${id} is still moving`;
  if (allocation === undefined) {
    if (running.length > 0) return `${id} has no node and runs on ${where}`;
    return placementFailure === "" ? `${id} has no node, and nobody knows why` : undefined;
  }
  const node = cluster.referee.state.nodes[allocation.node];
  if (node === undefined)
    return placementFailure === "" ? `${id} is on ${allocation.node}, which is no more` : undefined;
  const record = cluster.kernel.machines.get(allocation.node)?.record(id);
  if (desired === DesiredState.STOPPED)
    return running.length > 0 ? `${id} is to be stopped and runs on ${where}` : undefined;
  if (
    allocation.state === AllocationState.EXITED &&
    !isRestarted(spec?.restart ?? "RESTART_POLICY_UNSPECIFIED", allocation.exitCode)
  )
    return running.length > 0 ? `${id} has ended and runs on ${where}` : undefined;
  if (running.length !== 1 || running[0]?.name !== allocation.node)
    return `${id} is to run on ${allocation.node} and runs ${where} (${allocation.state}, ${JSON.stringify(record?.status)})`;
  if (record?.epoch !== allocation.epoch)
    return `${id} has epoch ${allocation.epoch} and runs with ${record?.epoch ?? "none"}`;
  if (allocation.state !== AllocationState.RUNNING) return `${id} runs and is said to be ${allocation.state}`;
  return undefined;
};

const leftoverFault = (cluster: SimCluster): string | undefined => {
  const { containers } = cluster.referee.state;
  for (const machine of cluster.machines)
    for (const id of new Set([...machine.records.keys(), ...machine.copies.keys()]))
      if (containers[id]?.allocation?.node !== machine.name)
        return `${machine.name} still has something of ${id}`;
  return undefined;
};

/** Longer than one takes when nothing is broken. */
const TAKEN_WITHIN_MS = 45_000;

const checkpointFault = (cluster: SimCluster): string | undefined => {
  const { checkpoints } = cluster.referee.state;
  for (const { containerName, id, state } of Object.values(checkpoints))
    if (state === CheckpointState.TAKING && cluster.referee.takenForMs(id) > TAKEN_WITHIN_MS)
      return `checkpoint ${id} of ${containerName} is still being taken`;
  for (const { kept, name } of cluster.machines)
    for (const id of kept)
      if (checkpoints[id]?.keepers.includes(name) !== true) return `${name} still keeps checkpoint ${id}`;
  return undefined;
};

const SAYS_WHY =
  /has to stay for now|no node fits|stays on its node|does not run|policy|its move was cancelled/;

const nodeFault = (cluster: SimCluster): string | undefined => {
  const { nodes } = cluster.referee.state;
  for (const { name } of cluster.machines) {
    const node = nodes[name];
    if (node?.state !== NodeState.READY) return `${name} is not ready`;
    if (node.drain?.outcome === "") {
      const { failed = [], remaining = [] } = cluster.leader?.running?.drainProgress(name) ?? {};
      const all = [...remaining, ...failed];
      // One without a deadline waits for as long as a rule forbids what it is to do, and says which.
      const goesOn = all.filter(({ reason }) => !SAYS_WHY.test(reason));
      if (all.length === 0 || goesOn.length > 0) {
        const open = all.map(({ container, reason }) => `${container}: ${reason}`).join("; ");
        return `the drain of ${name} does not end (${open})`;
      }
    }
  }
  return undefined;
};

const schedulerFault = (cluster: SimCluster): string | undefined => {
  const { last } = cluster.server;
  if (cluster.leader === undefined) return "nobody leads";
  for (const { id, replica } of cluster.schedulers.values())
    if (replica?.sequence !== last) return `${id} knows ${replica?.sequence ?? 0} of ${last} entries`;
  return undefined;
};

/** Undefined: everything is as it is wanted. */
export const unsettled = (cluster: SimCluster): string | undefined => {
  const first = schedulerFault(cluster) ?? nodeFault(cluster);
  if (first !== undefined) return first;
  for (const container of Object.values(cluster.referee.state.containers)) {
    const fault = containerFault(cluster, container);
    if (fault !== undefined) return fault;
  }
  return leftoverFault(cluster) ?? checkpointFault(cluster);
};
