/**
 * What each service needs next: containers created, retired and replaced, roll-outs ended or given up. Pure; everything
 * that it goes by is in the log, so that another leader goes on at any point.
 */
import {
  AllocationState,
  DesiredState,
  NodeState,
  RolloutState,
  type Command,
  type Container,
  type Service,
} from "../../proto/gen/godwit/v1/log.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { formatSeconds } from "../model/quantity.ts";
import { updateRules, type UpdateRules } from "../model/service-policy.ts";
import { isAvailable } from "../state/availability.ts";
import { creationCheck } from "../state/apply-container.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import { disruptionCheck, type PlannedDisruptions } from "./disruption.ts";
import { membersOf, type Members } from "./service-members.ts";

/** Keeps a log entry well below the size of a message. */
const CREATED_A_ROUND = 200;

export interface ServiceOptions {
  readonly planned: PlannedDisruptions;
  readonly nowMs: number;
  /** Time limits count from here at the earliest: what happened before is not known. */
  readonly leaderSinceMs: number;
  readonly newId: () => string;
}

interface Look {
  readonly cluster: Cluster;
  readonly options: ServiceOptions;
  readonly name: string;
  readonly service: Service;
  readonly rules: UpdateRules;
  readonly members: Members;
  /** Containers to have; none of a service that is being removed. */
  readonly wanted: number;
  /** The roll-out goes on, forward or back. */
  readonly isRolling: boolean;
}

const byName = (a: Container, b: Container): number => (nameOf(a) < nameOf(b) ? -1 : 1);

/** Up for long enough to count. */
const isGood = ({ cluster, options, rules }: Look, container: Container): boolean =>
  isAvailable(cluster, container) &&
  options.nowMs - (container.allocation?.readyAtMs ?? 0) >= rules.monitorMs;

const isLost = ({ cluster }: Look, { allocation }: Container): boolean =>
  allocation !== undefined && cluster.state.nodes[allocation.node]?.state === NodeState.LOST;

/** Since when a container of the present revision has had time to get well. */
const waitedSinceMs = ({ options, service }: Look, { allocation, createdAtMs }: Container): number =>
  Math.max(
    createdAtMs,
    allocation?.placedAtMs ?? 0,
    service.rollout?.startedAtMs ?? 0,
    options.leaderSinceMs,
  );

const overdue = (look: Look, container: Container): string | undefined => {
  const { options, rules } = look;
  // A lost node is not the revision's fault.
  if (isLost(look, container)) return undefined;
  if (isGood(look, container) || options.nowMs - waitedSinceMs(look, container) < rules.timeoutMs)
    return undefined;
  const { allocation, desired, placementFailure } = container;
  const why =
    desired === DesiredState.STOPPED
      ? "somebody has stopped it"
      : allocation === undefined
        ? placementFailure
        : allocation.health === HealthState.STARTING
          ? "its health check has not succeeded"
          : allocation.state === AllocationState.EXITED
            ? `it exited with code ${allocation.exitCode}`
            : allocation.message;
  return `${nameOf(container)} was not up after ${formatSeconds(rules.timeoutMs)}${why === "" ? "" : `: ${why}`}`;
};

/** What is wrong with a new container; one that goes on from before the roll-out shows nothing of the change. */
const ailment = ({ service }: Look, container: Container): string | undefined => {
  const { allocation, createdAtMs, desired, restartGeneration } = container;
  const name = nameOf(container);
  if (allocation === undefined || desired !== DesiredState.RUNNING) return undefined;
  if (createdAtMs < (service.rollout?.startedAtMs ?? 0)) return undefined;
  const said = allocation.message === "" ? "" : `: ${allocation.message}`;
  if (allocation.state === AllocationState.FAILED) return `${name} failed${said}`;
  if (allocation.state === AllocationState.EXITED)
    return `${name} exited with code ${allocation.exitCode}${said}`;
  if (allocation.health === HealthState.UNHEALTHY) return `${name} is unhealthy${said}`;
  return allocation.restarts > restartGeneration ? `${name} ended and was restarted` : undefined;
};

/** Why no container of the service can be made at all; it may pass. */
export const creationRefusal = (cluster: Cluster, service: Service): string | undefined => {
  const template = service.spec?.template;
  return template === undefined ? undefined : creationCheck(cluster, template)?.message;
};

/** The same, when it has lasted too long. */
const blockedFor = ({ cluster, members, options, rules, service, wanted }: Look): string | undefined => {
  const sinceMs = Math.max(service.rollout?.startedAtMs ?? 0, options.leaderSinceMs);
  if (members.active.length >= wanted || options.nowMs - sinceMs < rules.timeoutMs) return undefined;
  return creationRefusal(cluster, service);
};

/** Why the roll-out cannot go on. A return is given up only when it takes too long: there is nothing else to go to. */
const failureOf = (look: Look): string | undefined => {
  const state = look.service.rollout?.state;
  if (state !== RolloutState.RUNNING && state !== RolloutState.ROLLING_BACK) return undefined;
  const blocked = blockedFor(look);
  if (blocked !== undefined) return blocked;
  for (const container of look.members.current.toSorted(byName)) {
    const why =
      (state === RolloutState.RUNNING ? ailment(look, container) : undefined) ?? overdue(look, container);
    if (why !== undefined) return why;
  }
  return undefined;
};

const isDone = (look: Look): boolean => {
  const { members, service, wanted } = look;
  const state = service.rollout?.state;
  if (state === RolloutState.DONE || state === RolloutState.ROLLED_BACK) return false;
  const { active, current, leaving, retiring } = members;
  return (
    current.length === wanted &&
    active.length === wanted &&
    [...retiring, ...leaving].every((container) => isLost(look, container)) &&
    current.every((container) => isGood(look, container))
  );
};

type Rank = readonly (number | string)[];
const compare = (a: Rank, b: Rank): number => {
  for (const [at, left] of a.entries()) {
    const right = b[at] ?? 0;
    if (left !== right) return left < right ? -1 : 1;
  }
  return 0;
};

/** Retires those of the candidates that may go now, the first ones first, up to a number of them. */
const retire = (look: Look, candidates: readonly Container[], count: number): Command[] => {
  const { cluster, options } = look;
  const commands: Command[] = [];
  for (const container of candidates) {
    if (commands.length >= count) break;
    // What moves is left alone, and a lost node could not be asked.
    if (container.migrationId !== "" || isLost(look, container)) continue;
    if (disruptionCheck(cluster, options.planned, container) !== undefined) continue;
    options.planned.add(container);
    commands.push(command("serviceContainerRetired", { id: container.id }));
  }
  return commands;
};

/** Those that are too many: the ill first, then the outdated, then the newest; of a start-first update, its old ones. */
const shrink = (look: Look): Command[] => {
  const { cluster, isRolling, members, rules, wanted } = look;
  const { active, current, old } = members;
  const isSurge = isRolling && rules.startFirst && old.length > 0;
  const unproven = isSurge ? current.filter((container) => !isGood(look, container)).length : 0;
  const excess = active.length - wanted - unproven;
  if (excess <= 0) return [];
  const outdated = new Set(old);
  const rank = (container: Container): Rank => {
    const works = isAvailable(cluster, container) ? 1 : 0;
    const isPresent = outdated.has(container) ? 0 : 1;
    const first = isSurge ? [isPresent, works] : [works, isPresent];
    return [...first, -container.createdAtMs, container.id];
  };
  return retire(
    look,
    active.toSorted((a, b) => compare(rank(a), rank(b))),
    excess,
  );
};

const create = (look: Look, count: number): Command[] => {
  const { cluster, name, options, service } = look;
  const commands: Command[] = [];
  if (count <= 0 || creationRefusal(cluster, service) !== undefined) return commands;
  for (let number = 1; commands.length < Math.min(count, CREATED_A_ROUND); number += 1) {
    const free = `${name}-${number}`;
    if (cluster.index.idByName.has(free)) continue;
    const { revision } = service;
    commands.push(
      command("serviceContainerCreated", { id: options.newId(), service: name, revision, name: free }),
    );
  }
  return commands;
};

/** Those that are missing. With stop-first, whoever leaves has to be gone first: its room may be needed. */
const grow = (look: Look): Command[] => {
  const { members, rules, wanted } = look;
  const { active, leaving, retiring } = members;
  const held = rules.startFirst
    ? 0
    : [...retiring, ...leaving].filter((container) => !isLost(look, container)).length;
  return create(look, wanted - active.length - held);
};

/** The next batch of a roll-out, when the last one is up and the pause is over. */
const nextBatch = (look: Look): Command[] => {
  const { cluster, members, options, rules, service, wanted } = look;
  const { active, current, old, retiring } = members;
  const replaceable = old.filter((container) => container.migrationId === "" && !isLost(look, container));
  const isInFlight =
    active.length !== wanted || retiring.length > 0 || !current.every((container) => isGood(look, container));
  if (replaceable.length === 0 || isInFlight) return [];
  const startedAtMs = service.rollout?.startedAtMs ?? 0;
  const replaced = current.filter(({ createdAtMs }) => createdAtMs >= startedAtMs);
  const lastMs = Math.max(-Infinity, ...replaced.map(({ allocation }) => allocation?.readyAtMs ?? 0));
  const isBack = service.rollout?.state === RolloutState.ROLLING_BACK;
  if (!isBack && options.nowMs < lastMs + rules.monitorMs + rules.pauseMs) return [];
  if (rules.startFirst) return create(look, Math.min(rules.batch, replaceable.length));
  const rank = (container: Container): Rank => [
    isAvailable(cluster, container) ? 1 : 0,
    container.createdAtMs,
    container.id,
  ];
  return retire(
    look,
    replaceable.toSorted((a, b) => compare(rank(a), rank(b))),
    rules.batch,
  );
};

/** Containers that were told to stop and have: nothing of them is needed any more. */
const removeRetired = (look: Look): Command[] =>
  look.members.retiring
    .filter((container) => {
      const state = container.allocation?.state;
      const mayRun =
        state === AllocationState.RUNNING ||
        state === AllocationState.STARTING ||
        state === AllocationState.FROZEN;
      return !mayRun && !isLost(look, container) && container.migrationId === "";
    })
    .map(({ id }) => command("containerRemoveRequested", { id, force: false }));

const planService = (look: Look): Command[] => {
  const { isRolling, members, name, service, wanted } = look;
  const cleared = removeRetired(look);
  if (service.removing) {
    if (members.count === 0) return [command("serviceRemoved", { name })];
    return [...cleared, ...retire(look, members.active, members.active.length)];
  }
  const { revision } = service;
  const failure = failureOf(look);
  if (failure !== undefined) return [...cleared, command("serviceRolloutEnded", { name, revision, failure })];
  if (isDone(look)) return [...cleared, command("serviceRolloutEnded", { name, revision, failure: "" })];
  const amended = isRolling
    ? members.amendable
        .filter(({ migrationId }) => migrationId === "")
        .map(({ id }) => command("serviceContainerAmended", { id, revision }))
    : [];
  const fitted = members.active.length > wanted ? shrink(look) : grow(look);
  const replaced = isRolling && fitted.length === 0 ? nextBatch(look) : [];
  return [...cleared, ...amended, ...fitted, ...replaced];
};

/**
 * The next steps of all services of which something has changed. One that needs nothing, now or later, is not looked at
 * again until something of it changes.
 */
export const planServices = (cluster: Cluster, options: ServiceOptions): Command[] => {
  const commands: Command[] = [];
  for (const name of [...cluster.unsettled].toSorted()) {
    const service = cluster.state.services[name];
    if (service?.spec === undefined) {
      cluster.unsettled.delete(name);
      continue;
    }
    const state = service.rollout?.state;
    const isRolling = state === RolloutState.RUNNING || state === RolloutState.ROLLING_BACK;
    const members = membersOf(cluster, name, service);
    const wanted = service.removing ? 0 : service.spec.replicas;
    const rules = updateRules(service.spec);
    const next = planService({ cluster, options, name, service, rules, members, wanted, isRolling });
    commands.push(...next);
    const { active, retiring } = members;
    const isSettled =
      next.length === 0 &&
      retiring.length === 0 &&
      active.length === wanted &&
      (state === RolloutState.DONE || state === RolloutState.ROLLED_BACK);
    if (isSettled) cluster.unsettled.delete(name);
  }
  return commands;
};
