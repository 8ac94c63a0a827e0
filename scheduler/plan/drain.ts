/** Emptying a node: what has moved, what can move where, what cannot and why. Pure. */
import type { DrainItem } from "../../proto/gen/godwit/v1/api.ts";
import {
  DesiredState,
  MigrationState,
  type Command,
  type Container,
  type Drain,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { someOf } from "../model/quantity.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import { PlannedDisruptions } from "./disruption.ts";
import { courseOf, type Course } from "./drain-course.ts";
import type { Seen } from "./movable.ts";
import type { MoveLimits } from "./move-limits.ts";
import { PlannedUse } from "./placement.ts";

/** What is worth waiting for after the deadline, such as a disruption budget, is waited for this long. */
export const OVERTIME_MS = 60_000;
/** What keeps a container from being moved and may pass by itself is waited for this long. */
const PASSING_MS = 30_000;
/** Moves have limits of their own, but for one whose target is lost in the wrong moment, which waits for an operator. */
export const WORK_OVERTIME_MS = 900_000;

export interface Departure {
  readonly container: Container;
  readonly to: string;
  readonly mode: typeof MigrationMode.AUTO | typeof MigrationMode.COLD;
  /** Why it is moved cold although it could be moved live by its policy; empty: it is moved as its policy says. */
  readonly why: string;
}

export interface DrainView {
  readonly moved: DrainItem[];
  /** Cannot be moved by this drain. */
  readonly failed: DrainItem[];
  /** Moving now, in either direction. */
  readonly moving: DrainItem[];
  /** Can be moved now. */
  readonly departures: Departure[];
  /** To be stopped where they are: nothing else is left. */
  readonly stops: Container[];
  /** Not movable at this moment, but likely to be soon. */
  readonly waiting: DrainItem[];
  /** Of those, how many are worth waiting for after the deadline. */
  patient: number;
  /** Their turn comes with the deadline, or when all else is done. */
  readonly deferred: DrainItem[];
  /** Does not keep the drain from ending. */
  readonly staying: DrainItem[];
  /** What has been decided about each container of the node that is in no migration. */
  readonly courses: { readonly container: Container; readonly course: Course }[];
}

export interface DrainTerms {
  readonly drain?: Drain | undefined;
  readonly nowMs: number;
  /** Shared by all planners of a round. */
  readonly disruptions?: PlannedDisruptions | undefined;
}

/** As if a drain began now. */
export const hypotheticalDrain = (force: boolean, deadlineMs: number, nowMs: number): Drain => ({
  id: "",
  deadlineMs,
  parallel: 1,
  force,
  startedAtMs: nowMs,
  outcome: "",
  endedAtMs: 0,
});

export const drainItem = (container: string, rest: Partial<DrainItem>): DrainItem => ({
  container,
  to: "",
  reason: "",
  migrationId: "",
  blackoutMs: 0,
  ...rest,
});

/** How the ended moves of a drain or a return came out; the aborted ones by container. */
export const attemptsOf = (
  cluster: Cluster,
  belongs: (migration: Migration) => boolean,
): { moved: Migration[]; aborted: Map<string, Migration[]> } => {
  const moved: Migration[] = [];
  const aborted = new Map<string, Migration[]>();
  for (const id of cluster.index.ended) {
    const migration = cluster.state.migrations[id];
    if (migration === undefined || !belongs(migration)) continue;
    if (migration.state === MigrationState.FINISHED) moved.push(migration);
    else aborted.set(migration.containerId, [...(aborted.get(migration.containerId) ?? []), migration]);
  }
  return { moved, aborted };
};

export const movedItem = (migration: Migration): DrainItem =>
  drainItem(migration.containerName, {
    to: migration.to,
    migrationId: migration.id,
    blackoutMs: migration.figures?.blackoutMs ?? 0,
    mode: migration.mode,
  });

const byName = (a: Container, b: Container): number => (nameOf(a) < nameOf(b) ? -1 : 1);

const viewAt = (
  cluster: Cluster,
  seen: Seen,
  node: string,
  isLate: boolean,
  terms: DrainTerms,
): DrainView => {
  const { state, index } = cluster;
  const { drain } = terms;
  const view: DrainView = {
    ...{ moved: [], failed: [], moving: [], departures: [], stops: [], waiting: [], patient: 0 },
    ...{ deferred: [], staying: [], courses: [] },
  };
  const drainId = drain?.id ?? "";
  const { moved, aborted } = attemptsOf(
    cluster,
    (migration) => drainId !== "" && migration.drainId === drainId,
  );
  view.moved.push(...moved.map(movedItem));
  for (const set of [index.leaving.get(node), index.arriving.get(node)])
    for (const id of set ?? []) {
      const container = state.containers[id];
      const migration = state.migrations[container?.migrationId ?? ""];
      if (container !== undefined && migration !== undefined)
        view.moving.push(
          drainItem(nameOf(container), {
            to: migration.to,
            reason: migration.to === node ? "is on its way here" : "is moving",
            migrationId: migration.id,
            mode: migration.mode,
          }),
        );
    }
  const planned = new PlannedUse(cluster);
  const disruptions = terms.disruptions ?? new PlannedDisruptions(cluster);
  const preferred = new Map(drain?.plan?.moves.map(({ containerId, to }) => [containerId, to]));
  const here = [...(index.onNode.get(node) ?? [])].flatMap((id) => state.containers[id] ?? []);
  for (const container of here.sort(byName)) {
    const name = nameOf(container);
    const migration = state.migrations[container.migrationId];
    if (migration !== undefined) {
      const switched = migration.state === MigrationState.SWITCHED;
      const reason = switched ? `has just come from ${migration.from}` : "is moving";
      view.moving.push(
        drainItem(name, {
          to: switched ? "" : migration.to,
          reason,
          migrationId: migration.id,
          mode: migration.mode,
        }),
      );
      continue;
    }
    const course = courseOf(
      {
        ...{ cluster, seen, planned, disruptions, isLate, force: drain?.force === true },
        hasLadder: drain !== undefined && (drain.deadlineMs > 0 || drain.force),
        isYoung: drain === undefined || terms.nowMs < drain.startedAtMs + PASSING_MS,
        attempts: aborted.get(container.id) ?? [],
        preferred: preferred.get(container.id),
      },
      container,
    );
    view.courses.push({ container, course });
    switch (course.kind) {
      case "live":
        planned.add(course.to, container);
        view.departures.push({ container, to: course.to, mode: MigrationMode.AUTO, why: "" });
        break;
      case "cold":
        planned.add(course.to, container);
        disruptions.add(container);
        view.departures.push({ container, to: course.to, mode: MigrationMode.COLD, why: course.why });
        break;
      case "stop":
        disruptions.add(container);
        view.stops.push(container);
        break;
      case "wait":
        view.waiting.push(drainItem(name, { reason: course.why }));
        if (course.patient === true) view.patient += 1;
        break;
      case "later":
        view.deferred.push(drainItem(name, { reason: `${course.why}; ${laterWords(course.rung, drain)}` }));
        break;
      case "stay":
        view.staying.push(drainItem(name, { reason: course.why }));
        break;
      case "failed":
        view.failed.push(
          drainItem(name, {
            reason: course.why,
            to: course.last?.to ?? "",
            migrationId: course.last?.id ?? "",
          }),
        );
    }
  }
  return view;
};

const laterWords = (rung: Course, drain: Drain | undefined): string =>
  `${(drain?.deadlineMs ?? 0) > 0 ? "at the deadline" : "when all else is done"} it is ${rung.kind === "cold" ? `stopped and started on ${rung.to}` : "stopped"}`;

const isOpen = (view: DrainView): boolean =>
  view.moving.length + view.departures.length + view.stops.length + view.waiting.length > 0;

/** How things stand for a drain of the node; `drain` absent: as if one began now. */
export const viewDrain = (cluster: Cluster, seen: Seen, node: string, terms: DrainTerms): DrainView => {
  const { drain, nowMs } = terms;
  const isLate = drain !== undefined && drain.deadlineMs > 0 && nowMs >= drain.deadlineMs;
  const view = viewAt(cluster, seen, node, isLate, terms);
  // Without a deadline, the ladder's lower rungs come when there is nothing else to do.
  const isDownTo = drain?.deadlineMs === 0 && drain.force && !isOpen(view);
  return isDownTo && (view.deferred.length > 0 || view.failed.length > 0)
    ? viewAt(cluster, seen, node, true, terms)
    : view;
};

const failure = (why: string): string => `failed: ${why}`;
const namesOf = (items: readonly DrainItem[]): string =>
  someOf(items.map((one) => `${one.container} (${one.reason})`));

const departing = ({ departures }: DrainView): DrainItem[] =>
  departures.map(({ container, to }) =>
    drainItem(nameOf(container), { to, reason: `was to be moved to ${to}` }),
  );

const ending = (view: DrainView, drain: Drain, nowMs: number): string | undefined => {
  const working = view.moving.length + view.departures.length + view.stops.length;
  if (!isOpen(view) && view.deferred.length === 0)
    return view.failed.length === 0 ? "drained" : failure(`cannot be moved: ${namesOf(view.failed)}`);
  if (drain.deadlineMs === 0 || nowMs < drain.deadlineMs) return undefined;
  // What is under way comes to its end, and then the ladder's lower rungs get their time; all else has had it.
  if (working > 0 && nowMs < drain.deadlineMs + WORK_OVERTIME_MS) return undefined;
  if (working === 0 && view.patient > 0 && nowMs < drain.deadlineMs + OVERTIME_MS) return undefined;
  const left = [...view.moving, ...departing(view), ...view.waiting, ...view.failed, ...view.deferred];
  return failure(`the deadline passed with ${left.length} still there: ${namesOf(left)}`);
};

export interface DrainRound {
  readonly newId: () => string;
  readonly nowMs: number;
  readonly disruptions: PlannedDisruptions;
  readonly limits: MoveLimits;
}

/** The next step of every running drain. */
export const planDrains = (cluster: Cluster, seen: Seen, round: DrainRound): Command[] =>
  [...cluster.index.draining].flatMap((node) => {
    const drain = cluster.state.nodes[node]?.drain;
    if (drain === undefined) return [];
    const view = viewDrain(cluster, seen, node, { drain, ...round });
    const outcome = ending(view, drain, round.nowMs);
    if (outcome !== undefined) return command("drainEnded", { node, drainId: drain.id, outcome });
    const commands = view.stops.map(({ id, restartGeneration }) =>
      command("containerDesiredSet", { id, desired: DesiredState.STOPPED, restartGeneration }),
    );
    let free = drain.parallel - view.moving.length;
    for (const { container, to, mode } of view.departures) {
      if (free <= 0) break;
      if (!round.limits.admits(node, to, drain.perLink ?? 0)) continue;
      round.limits.add(node, to);
      free -= 1;
      commands.push(
        command("migrationStarted", {
          id: round.newId(),
          containerId: container.id,
          from: node,
          to,
          epoch: (container.allocation?.epoch ?? 0) + 1,
          mode,
          blackoutBudgetMs: container.spec?.blackoutBudgetMs ?? 0,
          drainId: drain.id,
          bandwidthBytesPerSecond: 0,
          reason: "drain",
        }),
      );
    }
    return commands;
  });
