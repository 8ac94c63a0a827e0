/** What a command means to an operator. Asked before the command applies, while what it ends is still known. */
import {
  AllocationState,
  DesiredState,
  MigrationState,
  NodeState,
  type Command,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import { HealthState, PlacementStrategy } from "../../proto/gen/godwit/v1/spec.ts";
import { turnedBack } from "../state/apply-drain.ts";
import { isHeldBySource, isLostWithSource } from "../state/apply-migration.ts";
import { formatBytes, formatSeconds } from "../model/quantity.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { whyItWaits } from "../state/failover.ts";
import {
  balanceAdvisedEvent,
  balanceMeasuredEvents,
  balancePausedEvent,
  balanceSetEvent,
  forecastText,
} from "./balance/events.ts";
import { formatKey } from "../state/node-key.ts";
import { happening, type Happening } from "./happening.ts";
import { serviceHappenings } from "./service-events.ts";

export type { Happening } from "./happening.ts";

const aborted = (migration: Migration, reason: string): Happening =>
  happening(
    "migration.aborted",
    migration.containerName,
    `${migration.id} ${migration.from} → ${migration.to}: ${reason}; it goes on at ${migration.from}`,
  );

const lost = (migration: Migration, reason: string): Happening =>
  happening(
    "migration.lost",
    migration.containerName,
    `${migration.id} ${migration.from} → ${migration.to}: ${reason}; it cannot go on at ${migration.to}`,
  );

/** Post-copies whose memory still follows from the node. */
const followingFrom = (cluster: Cluster, node: string): Migration[] =>
  [...cluster.index.moving]
    .flatMap((id) => cluster.state.migrations[id] ?? [])
    .filter((one) => one.from === node && isLostWithSource(one));

/** Its migrations are about to stand still, or to be undone. */
const switchedTo = (cluster: Cluster, node: string): Migration[] =>
  [...cluster.index.moving]
    .flatMap((id) => cluster.state.migrations[id] ?? [])
    .filter(({ state, to }) => state === MigrationState.SWITCHED && to === node);

const HEALTHS: Partial<Record<HealthState, string>> = {
  [HealthState.HEALTHY]: "container.healthy",
  [HealthState.UNHEALTHY]: "container.unhealthy",
};

const wordOf = (strategy: PlacementStrategy): string =>
  strategy === PlacementStrategy.PACK ? "pack" : "spread";

const OBSERVED: Partial<Record<AllocationState, string>> = {
  [AllocationState.RUNNING]: "container.running",
  [AllocationState.EXITED]: "container.exited",
  [AllocationState.FAILED]: "container.failed",
};

export const happeningsOf = (cluster: Cluster, { command }: Command): Happening[] => {
  const { state } = cluster;
  const containerName = (id: string): string => {
    const container = state.containers[id];
    return container === undefined ? id : nameOf(container);
  };
  const runningMigrationOf = (id: string): Migration | undefined => {
    const migration = state.migrations[state.containers[id]?.migrationId ?? ""];
    return migration?.state === MigrationState.RUNNING ? migration : undefined;
  };
  const ofMigration = (id: string, make: (migration: Migration) => Happening): Happening[] => {
    const migration = state.migrations[id];
    return migration === undefined ? [] : [make(migration)];
  };
  switch (command?.$case) {
    case undefined:
      return [];
    case "leaderElected":
      return [happening("leader.elected", command.value.schedulerId, `epoch ${command.value.epoch}`)];
    case "nodeJoined": {
      const name = command.value.info?.name ?? "";
      const known = state.nodes[name];
      if (known === undefined) return [happening("node.joined", name, command.value.info?.underlayAddress)];
      if (known.incarnation !== command.value.incarnation)
        return [
          happening(
            "node.joined",
            name,
            "as another machine, or started anew: nothing of what it ran runs on",
          ),
        ];
      return known.state === NodeState.LOST
        ? [happening("node.ready", name)]
        : [happening("node.changed", name)];
    }
    case "nodeKeyTrusted":
      return [
        happening(
          "node.key-trusted",
          command.value.node,
          `its stream key is ${formatKey(command.value.key)} now`,
        ),
      ];
    case "nodeStateChanged": {
      const { node, reason } = command.value;
      const isLost = command.value.state === NodeState.LOST;
      return [
        happening(isLost ? "node.lost" : "node.ready", node, reason),
        ...(isLost ? switchedTo(cluster, node) : []).map(({ containerName, from, id }) =>
          happening(
            "migration.stands",
            containerName,
            `${id} ${from} → ${node}: lost after the switch; see "godwit why ${containerName}"`,
          ),
        ),
      ];
    }
    case "nodeSchedulableSet": {
      const { node, schedulable } = command.value;
      const drained = schedulable && state.nodes[node]?.drain?.outcome === "";
      return [
        happening(schedulable ? "node.uncordoned" : "node.cordoned", node),
        ...(drained ? [happening("drain.ended", node, "cancelled: the node was uncordoned")] : []),
      ];
    }
    case "nodeRemoved":
      return [
        happening("node.removed", command.value.node),
        ...switchedTo(cluster, command.value.node)
          .filter((migration) => isHeldBySource(cluster, migration))
          .map((migration) => aborted(migration, "the node was removed")),
        ...followingFrom(cluster, command.value.node).map((migration) =>
          lost(migration, "the node was removed"),
        ),
      ];
    case "nodeFenceSet": {
      const { fault, fenceMs, node } = command.value;
      const words =
        fenceMs > 0
          ? `armed: it closes ${formatSeconds(fenceMs)} after the last answered report`
          : fault || "open";
      return [happening("node.fence", node, words)];
    }
    case "nodeFenced": {
      const { node } = command.value;
      const waiting = [...(cluster.index.onNode.get(node) ?? [])].flatMap((id) => {
        const container = state.containers[id];
        const why = container === undefined ? undefined : whyItWaits(container);
        return container === undefined || why === undefined || container.desired !== DesiredState.RUNNING
          ? []
          : happening("container.lost", nameOf(container), `with ${node}, and not started elsewhere: ${why}`);
      });
      return [
        happening("node.fenced", node, "its containers stand still: they go on elsewhere"),
        ...switchedTo(cluster, node)
          .filter((migration) => {
            const container = state.containers[migration.containerId];
            return (
              isHeldBySource(cluster, migration) &&
              container !== undefined &&
              whyItWaits(container) === undefined
            );
          })
          .map((migration) => aborted(migration, "the node was lost")),
        ...waiting,
      ];
    }
    case "checkpointStarted": {
      const { containerId, id, keepers, reason } = command.value;
      return reason === "periodic"
        ? []
        : [
            happening(
              "checkpoint.started",
              containerName(containerId),
              `${id}, for ${keepers.join(" and ")}`,
            ),
          ];
    }
    case "checkpointStored": {
      const { blackoutMs, id, sizeBytes, wholeBytes } = command.value;
      const checkpoint = state.checkpoints[id];
      return [
        happening(
          "checkpoint.stored",
          checkpoint?.containerName ?? "",
          `${id} on ${checkpoint?.keepers.join(" and ") ?? ""}: ${formatBytes(sizeBytes)} of ${formatBytes(wholeBytes)} sent, blackout ${Math.round(blackoutMs)} ms`,
        ),
      ];
    }
    case "checkpointFailed": {
      const { error, id } = command.value;
      return [happening("checkpoint.failed", state.checkpoints[id]?.containerName ?? "", `${id}: ${error}`)];
    }
    case "checkpointRemoved": {
      const { id } = command.value;
      return [happening("checkpoint.removed", state.checkpoints[id]?.containerName ?? "", id)];
    }
    case "containerRestored": {
      const { checkpointId, containerId, node } = command.value;
      return [
        happening(
          "container.restored",
          containerName(containerId),
          `from checkpoint ${checkpointId} on ${node}`,
        ),
      ];
    }
    case "failoverSet":
      return [happening(command.value.enabled ? "failover.on" : "failover.off", "cluster")];
    case "drainStarted": {
      const { evacuate, node } = command.value;
      const arriving = [...(cluster.index.arriving.get(node) ?? [])].flatMap(
        (id) => runningMigrationOf(id) ?? [],
      );
      return [
        happening("drain.started", node, evacuate === true ? "to be returned" : ""),
        ...arriving.map((migration) => aborted(migration, turnedBack(node))),
      ];
    }
    case "returnStarted":
      return [happening("return.started", command.value.node)];
    case "returnEnded":
      return [happening("return.ended", command.value.node, command.value.outcome)];
    case "drainEnded":
      return [happening("drain.ended", command.value.node, command.value.outcome)];
    case "imageAdded":
      return [happening("image.added", command.value.image?.name ?? "", command.value.image?.digest)];
    case "imageRemoved":
      return [happening("image.removed", command.value.name)];
    case "containerCreated":
      return [
        happening(
          "container.created",
          command.value.spec?.name ?? "",
          `from ${command.value.spec?.image ?? ""}`,
        ),
      ];
    case "containerDesiredSet": {
      const { id, desired, restartGeneration } = command.value;
      const stops = desired === DesiredState.STOPPED;
      const restarts = restartGeneration > (state.containers[id]?.restartGeneration ?? 0);
      const migration = stops || restarts ? runningMigrationOf(id) : undefined;
      return [
        ...(migration === undefined
          ? []
          : [aborted(migration, `the container was ${stops ? "stopped" : "restarted"}`)]),
        happening(stops ? "container.stop" : "container.start", containerName(id)),
      ];
    }
    case "containerRemoveRequested": {
      const { id } = command.value;
      const migration = runningMigrationOf(id);
      return [
        ...(migration === undefined ? [] : [aborted(migration, "the container was removed")]),
        happening("container.removing", containerName(id)),
      ];
    }
    case "containerRemoved":
      return [happening("container.removed", containerName(command.value.id))];
    case "allocationPlaced": {
      const { checkpointId = "", containerId, node } = command.value;
      const at = new Date(state.checkpoints[checkpointId]?.startedAtMs ?? 0).toISOString();
      const how = checkpointId === "" ? "started anew" : `goes on from checkpoint ${checkpointId} of ${at}`;
      const before = state.containers[containerId]?.allocation?.node;
      return before === undefined
        ? [happening("container.placed", containerName(containerId), `on ${node}`)]
        : [happening("container.failed-over", containerName(containerId), `${before} → ${node}: ${how}`)];
    }
    case "allocationObserved": {
      const { containerId, node, state: seen, exitCode, health, message } = command.value;
      const name = containerName(containerId);
      if (node === "") return [happening("container.pending", name, message)];
      const before = state.containers[containerId]?.allocation;
      if (seen === AllocationState.RUNNING && before?.state === seen && before.health !== health)
        return HEALTHS[health] === undefined
          ? []
          : [happening(HEALTHS[health], name, `on ${node}${message === "" ? "" : `: ${message}`}`)];
      const kind = OBSERVED[seen];
      if (kind === undefined) return [];
      const code = seen === AllocationState.EXITED ? ` with code ${exitCode}` : "";
      return [happening(kind, name, `on ${node}${code}${message === "" ? "" : `: ${message}`}`)];
    }
    case "migrationStarted": {
      const { balance, id, containerId, from, to, reason } = command.value;
      const why = balance === undefined ? reason : `${reason}: ${forecastText(from, to, balance)}`;
      return [happening("migration.started", containerName(containerId), `${id} ${from} → ${to} (${why})`)];
    }
    case "migrationSwitched":
      return ofMigration(command.value.id, (migration) =>
        happening(
          "migration.switched",
          migration.containerName,
          `${migration.id}: ${migration.to} owns it now`,
        ),
      );
    case "migrationAborted": {
      const { reason } = command.value;
      return ofMigration(command.value.id, (migration) => aborted(migration, reason));
    }
    case "migrationReturned": {
      const { reason } = command.value;
      return ofMigration(command.value.id, (migration) => aborted(migration, reason));
    }
    case "migrationFinished": {
      const { figures } = command.value;
      return ofMigration(command.value.id, (migration) =>
        happening(
          "migration.finished",
          migration.containerName,
          `${migration.id} ${migration.from} → ${migration.to}: blackout ${Math.round(figures?.blackoutMs ?? 0)} ms of ${Math.round(figures?.totalMs ?? 0)} ms`,
        ),
      );
    }
    case "nodeLabelsSet": {
      const { node, remove, set } = command.value;
      const words = [
        ...Object.entries(set).map(([key, value]) => `${key}=${value}`),
        ...remove.map((key) => `${key}-`),
      ];
      return [happening("node.labelled", node, words.join(" "))];
    }
    case "projectSet":
      return [happening("project.set", command.value.project?.name ?? "")];
    case "projectRemoved":
      return [happening("project.removed", command.value.name)];
    case "placementDefaultSet":
      return [happening("placement.default", wordOf(command.value.strategy))];
    case "containerPreempted": {
      const { containerId, forContainerId, node } = command.value;
      const message = `stopped on ${node} to make room for ${containerName(forContainerId)}`;
      return [happening("container.preempted", containerName(containerId), message)];
    }
    case "allocationReleased": {
      const { containerId, node } = command.value;
      return [happening("container.released", containerName(containerId), `by ${node}; it waits for room`)];
    }
    case "migrationLost": {
      const { reason } = command.value;
      return ofMigration(command.value.id, (migration) => lost(migration, reason));
    }
    case "migrationCancelRequested":
      return ofMigration(command.value.id, (migration) =>
        happening("migration.cancelling", migration.containerName, migration.id),
      );
    case "balanceSet":
      return [balanceSetEvent(command.value)];
    case "balancePaused":
      return [balancePausedEvent(command.value.reason)];
    case "balanceMeasured":
      return balanceMeasuredEvents(cluster, command.value);
    case "balanceAdvised":
      return [balanceAdvisedEvent(command.value)];
    default:
      return serviceHappenings(cluster, command);
  }
};
