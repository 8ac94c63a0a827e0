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
import { formatSeconds } from "../model/quantity.ts";
import type { Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import type { NodeSeen, Volatile } from "./volatile.ts";

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

/** Of one that runs and is ill: what its check said. */
const messageOf = ({ health, healthOutput, message }: ObservedAllocation): string =>
  message === "" && health === HealthState.UNHEALTHY ? healthOutput : message;

const ENDED: ReadonlySet<AllocationState> = new Set([AllocationState.EXITED, AllocationState.FAILED]);

/**
 * What is to be stopped and is not there is stopped, and no report will ever name it: its agent had not heard of it
 * before, or the host has come back with another disk.
 */
const notThere = (cluster: Cluster, node: string, seen: NodeSeen): Command[] => {
  const owned = cluster.index.onNode.get(node);
  if (!seen.current || owned === undefined || owned.size <= seen.allocations.size) return [];
  return [...owned].flatMap((id) => {
    const { allocation, desired, migrationId } = cluster.state.containers[id] ?? {};
    if (allocation === undefined || desired !== DesiredState.STOPPED || migrationId !== "") return [];
    if (ENDED.has(allocation.state) || seen.allocations.has(id)) return [];
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
  });
};

export const planObserved = (cluster: Cluster, volatile: Volatile): Command[] => {
  const commands: Command[] = [];
  for (const node of volatile.fresh) {
    const seen = volatile.nodes.get(node);
    if (seen === undefined) continue;
    const { current, report } = seen;
    commands.push(...notThere(cluster, node, seen));
    for (const observed of report.allocations) {
      const container = cluster.state.containers[observed.containerId];
      const allocation = container?.allocation;
      if (container === undefined || allocation?.node !== node || allocation.epoch !== observed.epoch)
        continue;
      if (
        observed.state === AllocationState.UNSPECIFIED ||
        isMigrationFreeze(cluster, container, observed, current)
      )
        continue;
      if (
        observed.state === allocation.state &&
        observed.exitCode === allocation.exitCode &&
        observed.restarts === allocation.restarts &&
        observed.health === allocation.health
      )
        continue;
      commands.push(
        command("allocationObserved", {
          containerId: observed.containerId,
          node,
          epoch: observed.epoch,
          state: observed.state,
          exitCode: observed.exitCode,
          restarts: observed.restarts,
          message: messageOf(observed).slice(0, MAX_MESSAGE),
          health: observed.health,
        }),
      );
    }
  }
  return commands;
};
