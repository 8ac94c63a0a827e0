/**
 * Whether a container can be moved, and where to: what the log knows and what its agent has found by looking at it. The
 * one place that `move`, drains, `why` and `ps` ask. Pure.
 */
import { MigrationState, type Container, type Migration } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, PlacementStrategy, type Blocker } from "../../proto/gen/godwit/v1/spec.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { demandOf } from "../state/fit/demand.ts";
import { obstaclesOf, spotOf } from "../state/fit/fit.ts";
import { leaveCheck, modeCheck, resolveMode, targetReasons } from "../state/move-check.ts";
import { reject, type Outcome, type Rejection } from "../state/rejection.ts";
import { ReasonTally, type ReasonCount } from "./placement/explain.ts";
import { describeScore } from "./placement/score.ts";
import { choosePlacement, placeOne, type Placement, type PlacementOptions } from "./placement.ts";
import { standstillOf } from "./standstill.ts";
import { observedOn, type Volatile } from "./volatile.ts";

export type Seen = Pick<Volatile, "migrations" | "nodes" | "order">;
/** Of a scheduler that does not lead. */
export const UNSEEN: Seen = { migrations: new Map(), nodes: new Map() };

const observedNow = (seen: Seen, { id, allocation }: Container) => {
  const observed = observedOn(seen.nodes.get(allocation?.node ?? ""), id);
  return observed?.epoch === allocation?.epoch ? observed : undefined;
};

/** What keeps it from being moved anywhere, as its agent last looked; empty too when nobody has looked yet. */
export const blockersOf = (seen: Seen, container: Container): readonly Blocker[] =>
  observedNow(seen, container)?.blockers ?? [];

const asRejection = (name: string, blockers: readonly Blocker[]): Outcome => {
  const [first] = blockers;
  if (first === undefined) return undefined;
  const more = blockers.length === 1 ? "" : ` (and ${blockers.length - 1} more: godwit why ${name})`;
  return reject("refused", `${name} cannot be moved now: ${first.reason}${more}`);
};

/** What it uses of its kernel that has to go on at another host; one that is started afresh looks for itself. */
const needsOf = (seen: Seen, container: Container, mode: MigrationMode): readonly string[] =>
  mode === MigrationMode.COLD ? [] : (observedNow(seen, container)?.needs ?? []);

/** The mode of a move that leaves it to the container's policy. */
export const usualMode = (container: Container): MigrationMode =>
  resolveMode(MigrationMode.AUTO, container.spec?.migration) ?? MigrationMode.PRECOPY;

/** Why the container cannot leave its node, whatever the target. What cannot be checkpointed can still be moved cold. */
export const stayCheck = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  force: boolean,
  mode = usualMode(container),
): Outcome =>
  leaveCheck(cluster, container, force) ??
  modeCheck(container, mode, force) ??
  (mode === MigrationMode.COLD ? undefined : asRejection(nameOf(container), blockersOf(seen, container)));

/** Everything that keeps the node from taking the container. */
export const targetRefusals = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  to: string,
  mode = usualMode(container),
): Rejection[] => targetReasons(cluster, container, to, mode, needsOf(seen, container, mode));

type TargetOptions = Pick<PlacementOptions, "planned" | "avoid" | "only" | "among"> & {
  readonly mode?: MigrationMode;
};
const targetOptions = (seen: Seen, container: Container, options: TargetOptions): PlacementOptions => {
  const { mode = usualMode(container), ...rest } = options;
  return {
    ...rest,
    mode,
    except: container.allocation?.node ?? "",
    needs: needsOf(seen, container, mode),
    seen,
  };
};

/** The best other node, of those on which the container can go on. */
export const chooseTarget = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  options: TargetOptions = {},
): Placement => choosePlacement(cluster, container, targetOptions(seen, container, options));

/** The same without a reason where there is none. */
export const findTarget = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  options: TargetOptions = {},
): string | undefined => placeOne(cluster, container, targetOptions(seen, container, options));

export interface WhyView {
  /** Oldest first. */
  readonly history: readonly { readonly atMs: number; readonly text: string }[];
  readonly staysBecause: readonly string[];
  readonly nodes: readonly {
    readonly node: string;
    readonly canMove: boolean;
    readonly reasons: readonly string[];
    /** How it ranks among those that take it. */
    readonly remark: string;
  }[];
  /** Why nodes do not take it, most frequent first. */
  readonly reasons: readonly ReasonCount[];
  readonly lastMove: Migration | undefined;
  /** Later than the last move. */
  readonly lastFailure: Migration | undefined;
}

const MOVED_BY: Readonly<Record<string, string>> = {
  operator: "by an operator",
  drain: "by a drain",
  return: "back to where it was before a drain",
  balance: "to balance the load",
  preemption: "to make room for a container of a higher priority",
};

/** Why a container is where it is, and where it could go. */
export const whyOf = (cluster: Cluster, seen: Seen, container: Container): WhyView => {
  const { nodes, migrations } = cluster.state;
  const own = Object.values(migrations)
    .filter(({ containerId }) => containerId === container.id)
    .sort((a, b) => a.startedAtMs - b.startedAtMs || (a.id < b.id ? -1 : 1));
  const moves = own.filter(({ switchedAtMs }) => switchedAtMs > 0);
  const lastMove = moves.findLast(({ state }) => state === MigrationState.FINISHED);
  const lastFailure = own.findLast(
    ({ state }) => state === MigrationState.ABORTED || state === MigrationState.LOST,
  );
  // One without a node is not kept from leaving it: what counts is which nodes would take it.
  const isUnplaced = cluster.index.unplaced.has(container.id);
  const leave = isUnplaced ? undefined : leaveCheck(cluster, container, false);
  const running = migrations[container.migrationId];
  const standstill = running === undefined ? undefined : standstillOf(cluster, seen, running);
  const staysBecause = [
    ...(standstill === undefined ? [] : [standstill]),
    ...(leave === undefined ? [] : [leave.message]),
    ...(usualMode(container) === MigrationMode.COLD
      ? []
      : blockersOf(seen, container).map(({ reason }) => reason)),
  ];
  const demand = demandOf(cluster, container, { needs: observedNow(seen, container)?.needs ?? [] });
  const tally = new ReasonTally();
  const others = Object.entries(nodes)
    .filter(([name]) => name !== container.allocation?.node)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, node]) => {
      const spot = spotOf(cluster, name, node);
      const obstacles = obstaclesOf(demand, spot);
      if (obstacles.length > 0) tally.add(name, obstacles);
      const fits = obstacles.length === 0;
      const digest = container.spec?.imageDigest ?? "";
      return {
        node: name,
        canMove: staysBecause.length === 0 && fits,
        reasons: obstacles.map(({ message }) => message),
        remark: fits ? describeScore(digest, node, spot.use, seen.nodes.get(name)) : "",
      };
    });
  return {
    history: [...beginning(container, moves[0]), ...moves.map(step), ...preemptionOf(container)].sort(
      (a, b) => a.atMs - b.atMs,
    ),
    staysBecause,
    nodes: others,
    reasons: tally.reasons(),
    lastMove,
    lastFailure: (lastFailure?.startedAtMs ?? 0) > (lastMove?.startedAtMs ?? -1) ? lastFailure : undefined,
  };
};

const step = ({ from, to, reason, switchedAtMs }: Migration): WhyView["history"][number] => ({
  atMs: switchedAtMs,
  text: `moved from ${from} to ${to} ${MOVED_BY[reason] ?? `(${reason})`}`,
});

const preemptionOf = ({ allocation, preemption }: Container): WhyView["history"] => {
  if (preemption === undefined) return [];
  const { atMs, endedAtMs, forName, forPriority, node } = preemption;
  const now = allocation === undefined ? "" : `; now on ${allocation.node}`;
  const text = `stopped on ${node} to make room for ${forName} (priority ${forPriority})`;
  return endedAtMs === 0
    ? [{ atMs, text }]
    : [
        { atMs, text },
        { atMs: endedAtMs, text: `placed again, when there was room${now}` },
      ];
};

const beginning = (container: Container, first: Migration | undefined): WhyView["history"] => {
  const { allocation, createdAtMs, placementFailure, preemption, spec } = container;
  const node = first?.from ?? preemption?.node ?? allocation?.node;
  if (node === undefined)
    return [{ atMs: createdAtMs, text: `waits for a node: ${placementFailure || "it is being placed"}` }];
  const chosen =
    spec?.strategy === PlacementStrategy.PACK
      ? "the fullest node that it fitted on"
      : "the least loaded node that it fitted on";
  const why = spec?.node === node ? `as asked for with --node ${node}` : chosen;
  const isLatest = first === undefined && preemption === undefined;
  return [
    {
      atMs: isLatest ? (allocation?.placedAtMs ?? createdAtMs) : createdAtMs,
      text: `placed on ${node}, ${why}`,
    },
  ];
};
