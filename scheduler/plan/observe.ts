/** From reports to what the log has to know: leases, and what became of the allocations. */
import {
  AllocationState,
  DesiredState,
  MigrationState,
  NodeState,
  type Command,
  type Container,
} from "../../proto/gen/godwit/v1/log.ts";
import type { ObservedAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { isOver } from "../model/allocation-state.ts";
import { formatSeconds } from "../model/quantity.ts";
import type { Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import type { NodeSeen } from "./node-seen.ts";
import type { Volatile } from "./volatile.ts";

const MAX_MESSAGE = 1024;

/**
 * Only reports that were accepted renew a lease, so a lost node with a lease is one that is back.
 * @param names the nodes to look at: without news of a node, only time changes anything
 */
export const planLeases = (
  cluster: Cluster,
  volatile: Volatile,
  { leaseMs, names, nowMs }: { leaseMs: number; names: Iterable<string>; nowMs: number },
): Command[] => {
  const commands: Command[] = [];
  for (const name of names) {
    const state = cluster.state.nodes[name]?.state;
    if (state === undefined) continue;
    const leftMs = volatile.leaseUntilMs(name) - nowMs;
    if (state === NodeState.READY && leftMs <= 0)
      commands.push(
        command("nodeStateChanged", {
          node: name,
          state: NodeState.LOST,
          reason: `no report for ${formatSeconds(leaseMs)}`,
        }),
      );
    if (state === NodeState.LOST && leftMs > 0 && volatile.nodes.has(name))
      commands.push(command("nodeStateChanged", { node: name, state: NodeState.READY, reason: "" }));
  }
  return commands;
};

/**
 * The freezing of a migrating container is seen in its migration; a log entry of its own would only hold up the switch.
 * After an abort the source still says "frozen" until it has read that it is the owner again.
 */
const isMigrationFreeze = (
  cluster: Cluster,
  container: Container,
  observed: ObservedAllocation,
  current: boolean,
): boolean =>
  observed.state === AllocationState.FROZEN &&
  (!current || cluster.state.migrations[container.migrationId]?.state === MigrationState.RUNNING);

/**
 * What was restored on a host whose lease has ended need not have run there: until it does, the log says that it starts,
 * and that its source still has it.
 */
const isHeldAtTarget = (
  cluster: Cluster,
  container: Container,
  observed: ObservedAllocation,
  fenceClosed: boolean,
): boolean =>
  fenceClosed &&
  observed.state === AllocationState.RUNNING &&
  container.allocation?.state === AllocationState.STARTING &&
  cluster.state.migrations[container.migrationId]?.state === MigrationState.SWITCHED;

/** Of one that runs and is ill: what its check said. */
const messageOf = ({ health, healthOutput, message }: ObservedAllocation): string =>
  message === "" && health === HealthState.UNHEALTHY ? healthOutput : message;

/**
 * What is to be stopped and is not there is stopped, and no report will ever name it: its agent had not heard of it
 * before, or the host has come back with another disk.
 */
const notThere = (container: Container, node: string): Command | undefined => {
  const { allocation, desired, id, migrationId } = container;
  if (allocation?.node !== node || desired !== DesiredState.STOPPED || migrationId !== "") return undefined;
  if (isOver(allocation.state)) return undefined;
  const wasThere = allocation.state !== AllocationState.PENDING;
  return command("allocationObserved", {
    containerId: id,
    node,
    epoch: allocation.epoch,
    state: AllocationState.EXITED,
    exitCode: 0,
    restarts: 0,
    message: wasThere ? "nothing of it is left on its host" : "stopped before it was started",
    health: HealthState.UNSPECIFIED,
  });
};

/** "agreed": the log knows what there is to know. "later": what is seen may yet be for the log. */
const compare = (
  cluster: Cluster,
  node: string,
  { allocations, current, report }: NodeSeen,
  id: string,
): Command | "agreed" | "later" => {
  const container = cluster.state.containers[id];
  const observed = allocations.get(id);
  if (container === undefined) return "agreed";
  if (observed === undefined) return current ? (notThere(container, node) ?? "agreed") : "later";
  const { allocation } = container;
  if (allocation?.node !== node || allocation.epoch !== observed.epoch) return "agreed";
  if (observed.state === AllocationState.UNSPECIFIED) return "agreed";
  if (isMigrationFreeze(cluster, container, observed, current)) return "later";
  if (isHeldAtTarget(cluster, container, observed, report.fenceClosed)) return "later";
  if (
    observed.state === allocation.state &&
    observed.exitCode === allocation.exitCode &&
    observed.restarts === allocation.restarts &&
    observed.health === allocation.health
  )
    return "agreed";
  return command("allocationObserved", {
    containerId: id,
    node,
    epoch: observed.epoch,
    state: observed.state,
    exitCode: observed.exitCode,
    restarts: observed.restarts,
    message: messageOf(observed).slice(0, MAX_MESSAGE),
    health: observed.health,
  });
};

/** Looks at nothing but what reports or the log have changed; what it has found something of, it looks at again. */
export const planObserved = (cluster: Cluster, volatile: Volatile): Command[] => {
  const commands: Command[] = [];
  for (const node of volatile.fresh) {
    const seen = volatile.nodes.get(node);
    if (seen === undefined) continue;
    for (const id of seen.open) {
      const found = compare(cluster, node, seen, id);
      if (found === "agreed") seen.open.delete(id);
      else if (found !== "later") commands.push(found);
    }
  }
  return commands;
};
