/** The state machine: one command in, a changed cluster or a rejection out. Pure, deterministic, all or nothing. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { Command, LeaderElected, LogEntry } from "../../proto/gen/godwit/v1/log.ts";
import {
  allocationObserved,
  allocationPlaced,
  containerCreated,
  containerDesiredSet,
  containerRemoved,
  containerRemoveRequested,
} from "./apply-container.ts";
import { drainEnded, drainStarted, returnEnded, returnStarted } from "./apply-drain.ts";
import {
  checkpointFailed,
  checkpointRemoved,
  checkpointStarted,
  checkpointStored,
  containerRestored,
} from "./apply-checkpoint.ts";
import { failoverSet, nodeFenced, nodeFenceSet } from "./apply-fence.ts";
import { balanceAdvised, balanceMeasured, balancePaused, balanceSet } from "./apply-balance.ts";
import { imageAdded, imageRemoved } from "./apply-image.ts";
import {
  migrationAborted,
  migrationCancelRequested,
  migrationFinished,
  migrationLost,
  migrationReturned,
  migrationStarted,
  migrationSwitched,
} from "./apply-migration.ts";
import {
  nodeJoined,
  nodeKeyTrusted,
  nodeRemoved,
  nodeSchedulableSet,
  nodeStateChanged,
} from "./apply-node.ts";
import {
  serviceContainerAmended,
  serviceContainerCreated,
  serviceContainerRetired,
} from "./apply-service-container.ts";
import {
  serviceRemoved,
  serviceRemoveRequested,
  serviceRolledBack,
  serviceRolloutEnded,
  servicesApplied,
  serviceScaled,
} from "./apply-service.ts";
import {
  allocationReleased,
  containerPreempted,
  nodeLabelsSet,
  placementDefaultSet,
  projectRemoved,
  projectSet,
} from "./apply-placement.ts";
import type { Cluster } from "./cluster.ts";
import { isRepeated, noteRequest } from "./requests.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

const leaderElected = (
  { state }: Cluster,
  { schedulerId, epoch }: LeaderElected,
  context: ApplyContext,
): Outcome => {
  if (epoch !== context.epoch || epoch <= state.epoch)
    return reject("refused", `epoch ${epoch} has passed: ${state.leaderId} leads with epoch ${state.epoch}`);
  state.epoch = epoch;
  state.leaderId = schedulerId;
  return undefined;
};

/** Throws `corrupt` on a command that this version does not know: skipping it would let replicas differ. */
export const apply = (cluster: Cluster, given: Command, context: ApplyContext): Outcome => {
  const { command } = given;
  if (command === undefined)
    throw new GodwitError(
      "corrupt",
      "the log holds a command that this version does not know: run the version that wrote it",
    );
  if (command.$case === "leaderElected") return leaderElected(cluster, command.value, context);
  if (context.epoch !== cluster.state.epoch)
    return reject(
      "refused",
      `this comes from a leader of epoch ${context.epoch}; epoch ${cluster.state.epoch} has begun`,
    );
  if (isRepeated(cluster, given)) return undefined;
  const outcome = applyOne(cluster, command, context);
  if (outcome === undefined) noteRequest(cluster, given);
  return outcome;
};

const applyOne = (
  cluster: Cluster,
  command: Exclude<Command["command"], { $case: "leaderElected" } | undefined>,
  context: ApplyContext,
): Outcome => {
  switch (command.$case) {
    case "nodeJoined":
      return nodeJoined(cluster, command.value);
    case "nodeKeyTrusted":
      return nodeKeyTrusted(cluster, command.value);
    case "nodeStateChanged":
      return nodeStateChanged(cluster, command.value);
    case "nodeSchedulableSet":
      return nodeSchedulableSet(cluster, command.value, context);
    case "nodeRemoved":
      return nodeRemoved(cluster, command.value, context);
    case "drainStarted":
      return drainStarted(cluster, command.value, context);
    case "drainEnded":
      return drainEnded(cluster, command.value, context);
    case "nodeFenceSet":
      return nodeFenceSet(cluster, command.value);
    case "nodeFenced":
      return nodeFenced(cluster, command.value, context);
    case "failoverSet":
      return failoverSet(cluster, command.value);
    case "returnStarted":
      return returnStarted(cluster, command.value, context);
    case "returnEnded":
      return returnEnded(cluster, command.value, context);
    case "checkpointStarted":
      return checkpointStarted(cluster, command.value, context);
    case "checkpointStored":
      return checkpointStored(cluster, command.value, context);
    case "checkpointFailed":
      return checkpointFailed(cluster, command.value, context);
    case "checkpointRemoved":
      return checkpointRemoved(cluster, command.value);
    case "containerRestored":
      return containerRestored(cluster, command.value, context);
    case "imageAdded":
      return imageAdded(cluster, command.value);
    case "imageRemoved":
      return imageRemoved(cluster, command.value);
    case "containerCreated":
      return containerCreated(cluster, command.value, context);
    case "containerDesiredSet":
      return containerDesiredSet(cluster, command.value, context);
    case "containerRemoveRequested":
      return containerRemoveRequested(cluster, command.value, context);
    case "containerRemoved":
      return containerRemoved(cluster, command.value, context);
    case "allocationPlaced":
      return allocationPlaced(cluster, command.value, context);
    case "allocationObserved":
      return allocationObserved(cluster, command.value, context);
    case "migrationStarted":
      return migrationStarted(cluster, command.value, context);
    case "migrationSwitched":
      return migrationSwitched(cluster, command.value, context);
    case "migrationAborted":
      return migrationAborted(cluster, command.value, context);
    case "migrationReturned":
      return migrationReturned(cluster, command.value, context);
    case "migrationFinished":
      return migrationFinished(cluster, command.value, context);
    case "migrationLost":
      return migrationLost(cluster, command.value, context);
    case "migrationCancelRequested":
      return migrationCancelRequested(cluster, command.value);
    case "servicesApplied":
      return servicesApplied(cluster, command.value, context);
    case "serviceScaled":
      return serviceScaled(cluster, command.value);
    case "serviceRolledBack":
      return serviceRolledBack(cluster, command.value, context);
    case "serviceRolloutEnded":
      return serviceRolloutEnded(cluster, command.value, context);
    case "serviceRemoveRequested":
      return serviceRemoveRequested(cluster, command.value);
    case "serviceRemoved":
      return serviceRemoved(cluster, command.value);
    case "serviceContainerCreated":
      return serviceContainerCreated(cluster, command.value, context);
    case "serviceContainerRetired":
      return serviceContainerRetired(cluster, command.value);
    case "serviceContainerAmended":
      return serviceContainerAmended(cluster, command.value);
    case "balanceSet":
      return balanceSet(cluster, command.value, context);
    case "balancePaused":
      return balancePaused(cluster, command.value, context);
    case "balanceMeasured":
      return balanceMeasured(cluster, command.value);
    case "balanceAdvised":
      return balanceAdvised(cluster, command.value, context);
    case "nodeLabelsSet":
      return nodeLabelsSet(cluster, command.value);
    case "projectSet":
      return projectSet(cluster, command.value);
    case "projectRemoved":
      return projectRemoved(cluster, command.value);
    case "placementDefaultSet":
      return placementDefaultSet(cluster, command.value);
    case "containerPreempted":
      return containerPreempted(cluster, command.value, context);
    case "allocationReleased":
      return allocationReleased(cluster, command.value);
  }
};

/** Applies a whole entry; one command's rejection does not touch the others'. `seen` is told each before it applies. */
export const applyEntry = (
  cluster: Cluster,
  entry: LogEntry,
  sequence: number,
  seen?: (command: Command) => void,
): Outcome[] => {
  const context: ApplyContext = { atMs: entry.atMs, epoch: entry.epoch };
  const outcomes = entry.commands.map((command) => {
    seen?.(command);
    return apply(cluster, command, context);
  });
  cluster.state.lastSequence = sequence;
  return outcomes;
};
