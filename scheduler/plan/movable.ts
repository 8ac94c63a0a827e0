/**
 * Whether a container can be moved, and where to: what the log knows and what its agent has found by looking at it. The
 * one place that `move`, drains, `why` and `ps` ask. Pure.
 */
import {
  MigrationState,
  type Container,
  type Migration,
  type NodeInfo,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, type Blocker } from "../../proto/gen/godwit/v1/spec.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { missingFeatures } from "../state/host-match.ts";
import { hostReasons, leaveCheck, modeCheck, resolveMode, targetReasons } from "../state/move-check.ts";
import { reject, type Outcome, type Rejection } from "../state/rejection.ts";
import { choosePlacement, type Placement, type PlacementOptions } from "./placement.ts";
import { standstillOf } from "./standstill.ts";
import { observedOn, type Volatile } from "./volatile.ts";

export type Seen = Pick<Volatile, "migrations" | "nodes">;
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
): Rejection[] => {
  const info = cluster.state.nodes[to]?.info;
  const refusals = targetReasons(cluster, container, to, mode);
  if (info === undefined || container.allocation?.node === to) return refusals;
  const needs = needsOf(seen, container, mode);
  return [...refusals, ...missingFeatures(needs, info).map((why) => reject("refused", why))];
};

/** The best other node, of those on which the container can go on. */
export const chooseTarget = (
  cluster: Cluster,
  seen: Seen,
  container: Container,
  options: Pick<PlacementOptions, "planned" | "avoid" | "only"> & { readonly mode?: MigrationMode } = {},
): Placement => {
  const { mode = usualMode(container), ...rest } = options;
  const from = container.allocation?.node ?? "";
  const source = cluster.state.nodes[from]?.info;
  const needs = needsOf(seen, container, mode);
  const unsuited = (info: NodeInfo): string | undefined =>
    [...(source === undefined ? [] : hostReasons(source, info, mode)), ...missingFeatures(needs, info)][0];
  return choosePlacement(cluster, container, { ...rest, except: from, unsuited });
};

export interface WhyView {
  /** Oldest first. */
  readonly history: readonly { readonly atMs: number; readonly text: string }[];
  readonly staysBecause: readonly string[];
  readonly nodes: readonly {
    readonly node: string;
    readonly canMove: boolean;
    readonly reasons: readonly string[];
  }[];
  readonly lastMove: Migration | undefined;
  /** Later than the last move. */
  readonly lastFailure: Migration | undefined;
}

const MOVED_BY: Readonly<Record<string, string>> = {
  operator: "by an operator",
  drain: "by a drain",
  return: "back to where it was before a drain",
  balance: "to balance the load",
};

/** Why a container is where it is, and where it could go. */
export const whyOf = (cluster: Cluster, seen: Seen, container: Container): WhyView => {
  const { nodes, migrations } = cluster.state;
  const own = Object.values(migrations)
    .filter(({ containerId }) => containerId === container.id)
    .sort((a, b) => a.startedAtMs - b.startedAtMs || (a.id < b.id ? -1 : 1));
  const moves = own.filter(({ switchedAtMs }) => switchedAtMs > 0);
  const lastMove = moves.findLast(({ state }) => state === MigrationState.FINISHED);
  const lastFailure = own.findLast(({ state }) => state === MigrationState.ABORTED);
  const leave = leaveCheck(cluster, container, false);
  const running = migrations[container.migrationId];
  const standstill = running === undefined ? undefined : standstillOf(cluster, seen, running);
  const staysBecause = [
    ...(standstill === undefined ? [] : [standstill]),
    ...(leave === undefined ? [] : [leave.message]),
    ...(usualMode(container) === MigrationMode.COLD
      ? []
      : blockersOf(seen, container).map(({ reason }) => reason)),
  ];
  return {
    history: [...beginning(container, moves[0]), ...moves.map(step)],
    staysBecause,
    nodes: Object.keys(nodes)
      .filter((node) => node !== container.allocation?.node)
      .sort()
      .map((node) => {
        const reasons = targetRefusals(cluster, seen, container, node).map(({ message }) => message);
        return { node, canMove: staysBecause.length === 0 && reasons.length === 0, reasons };
      }),
    lastMove,
    lastFailure: (lastFailure?.startedAtMs ?? 0) > (lastMove?.startedAtMs ?? -1) ? lastFailure : undefined,
  };
};

const step = ({ from, to, reason, switchedAtMs }: Migration): WhyView["history"][number] => ({
  atMs: switchedAtMs,
  text: `moved from ${from} to ${to} ${MOVED_BY[reason] ?? `(${reason})`}`,
});

const beginning = (container: Container, first: Migration | undefined): WhyView["history"] => {
  const { allocation, createdAtMs, placementFailure, spec } = container;
  const node = first?.from ?? allocation?.node;
  if (node === undefined)
    return [{ atMs: createdAtMs, text: `waits for a node: ${placementFailure || "it is being placed"}` }];
  const why =
    spec?.node === node ? `as asked for with --node ${node}` : "the least loaded node that it fitted on";
  return [
    {
      atMs: first === undefined ? (allocation?.placedAtMs ?? createdAtMs) : createdAtMs,
      text: `placed on ${node}, ${why}`,
    },
  ];
};
