/** Emptying a node: what has moved, what can move where, what cannot and why. */
import type { DrainItem } from "../../proto/gen/godwit/v1/api.ts";
import {
  AllocationState,
  DesiredState,
  MigrationState,
  NodeState,
  type Command,
  type Container,
  type Drain,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { someOf } from "../model/quantity.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import { chooseTarget, stayCheck, type Seen } from "./movable.ts";
import { PlannedUse } from "./placement.ts";

/** After this many aborted moves in one drain a container is left alone. */
const MOVE_ATTEMPTS = 3;

interface Departure {
  readonly container: Container;
  readonly to: string;
}

export interface DrainView {
  readonly moved: DrainItem[];
  /** Cannot be moved by this drain. */
  readonly failed: DrainItem[];
  /** Moving now, in either direction. */
  readonly moving: DrainItem[];
  /** Can be moved now. */
  readonly departures: Departure[];
  /** Not movable at this moment, but likely to be soon. */
  readonly waiting: DrainItem[];
  /** Does not keep the drain from ending. */
  readonly staying: DrainItem[];
}

const item = (container: string, rest: Partial<DrainItem>): DrainItem => ({
  container,
  to: "",
  reason: "",
  migrationId: "",
  blackoutMs: 0,
  ...rest,
});

const attemptsOf = (
  cluster: Cluster,
  drainId: string,
): { moved: Migration[]; aborted: Map<string, Migration[]> } => {
  const moved: Migration[] = [];
  const aborted = new Map<string, Migration[]>();
  if (drainId === "") return { moved, aborted };
  for (const id of cluster.index.ended) {
    const migration = cluster.state.migrations[id];
    if (migration?.drainId !== drainId) continue;
    if (migration.state === MigrationState.FINISHED) moved.push(migration);
    else aborted.set(migration.containerId, [...(aborted.get(migration.containerId) ?? []), migration]);
  }
  return { moved, aborted };
};

/** Whether the agent will start it again by itself. */
const willRestart = (container: Container): boolean => {
  const { allocation, spec } = container;
  if (container.desired !== DesiredState.RUNNING || spec?.restart === RestartPolicy.NEVER) return false;
  return spec?.restart !== RestartPolicy.ON_FAILURE || allocation?.exitCode !== 0;
};

const STAYS = "stays on its node until started or removed";

interface Idle {
  readonly as: "waiting" | "staying" | "failed";
  readonly reason: string;
}

/** Why a container cannot be moved at this moment, and whether that will pass. */
const idleness = (container: Container): Idle | undefined => {
  const allocation = container.allocation;
  const stopping = container.desired === DesiredState.STOPPED;
  if (container.removing) return { as: "waiting", reason: "is being removed" };
  switch (allocation?.state) {
    case AllocationState.RUNNING:
      return stopping ? { as: "waiting", reason: "is being stopped" } : undefined;
    case AllocationState.EXITED:
      if (stopping) return { as: "staying", reason: `stopped: ${STAYS}` };
      if (willRestart(container)) return { as: "waiting", reason: "is being restarted" };
      return { as: "staying", reason: `exited with code ${allocation.exitCode}: ${STAYS}` };
    case AllocationState.FAILED: {
      const why = allocation.message || "no reason given";
      if (stopping) return { as: "staying", reason: `stopped, after it failed (${why}): ${STAYS}` };
      // Its agent goes on trying, so the node is not free of it; but that may go on for ever.
      return { as: "failed", reason: `does not run (${why})` };
    }
    default:
      return { as: "waiting", reason: stopping ? "is being stopped" : "is starting" };
  }
};

/** How things stand for a drain of the node; `drain` absent: as if one began now. */
export const viewDrain = (cluster: Cluster, seen: Seen, node: string, drain?: Drain): DrainView => {
  const { state, index } = cluster;
  const view: DrainView = { moved: [], failed: [], moving: [], departures: [], waiting: [], staying: [] };
  const { moved, aborted } = attemptsOf(cluster, drain?.id ?? "");
  for (const migration of moved)
    view.moved.push(
      item(migration.containerName, {
        to: migration.to,
        migrationId: migration.id,
        blackoutMs: migration.figures?.blackoutMs ?? 0,
      }),
    );
  for (const set of [index.leaving.get(node), index.arriving.get(node)])
    for (const id of set ?? []) {
      const container = state.containers[id];
      const migration = state.migrations[container?.migrationId ?? ""];
      if (container !== undefined && migration !== undefined)
        view.moving.push(
          item(nameOf(container), {
            to: migration.to,
            reason: migration.to === node ? "is on its way here" : "is moving",
            migrationId: migration.id,
          }),
        );
    }
  const planned = new PlannedUse(cluster);
  const nodeLost = state.nodes[node]?.state === NodeState.LOST;
  const here = [...(index.onNode.get(node) ?? [])].flatMap((id) => state.containers[id] ?? []);
  here.sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  for (const container of here) {
    const name = nameOf(container);
    const migration = state.migrations[container.migrationId];
    if (migration !== undefined) {
      const switched = migration.state === MigrationState.SWITCHED;
      const reason = switched ? `has just come from ${migration.from}` : "is moving";
      view.moving.push(item(name, { to: switched ? "" : migration.to, reason, migrationId: migration.id }));
      continue;
    }
    const idle = idleness(container);
    if (idle !== undefined) {
      view[idle.as].push(item(name, { reason: idle.reason }));
      continue;
    }
    if (nodeLost) {
      view.waiting.push(item(name, { reason: "its node is lost" }));
      continue;
    }
    const refused = stayCheck(cluster, seen, container, drain?.force === true);
    if (refused !== undefined) {
      view.failed.push(item(name, { reason: refused.message }));
      continue;
    }
    const attempts = aborted.get(container.id) ?? [];
    const last = attempts.at(-1);
    if (last !== undefined && (attempts.length >= MOVE_ATTEMPTS || last.cancelRequested)) {
      const count = last.cancelRequested
        ? "its move was cancelled"
        : `failed to move ${attempts.length} times, last: ${last.error}`;
      view.failed.push(item(name, { to: last.to, reason: count, migrationId: last.id }));
      continue;
    }
    const avoid = new Set(attempts.map((attempt) => attempt.to));
    const placement = chooseTarget(cluster, seen, container, { planned, avoid });
    if (placement.node === undefined) {
      view.failed.push(item(name, { reason: placement.failure }));
      continue;
    }
    planned.add(placement.node, container);
    view.departures.push({ container, to: placement.node });
  }
  return view;
};

const failure = (why: string): string => `failed: ${why}`;
const namesOf = (items: readonly DrainItem[]): string =>
  someOf(items.map((one) => `${one.container} (${one.reason})`));

const ending = (view: DrainView, drain: Drain, nowMs: number): string | undefined => {
  const open = view.moving.length + view.departures.length + view.waiting.length;
  if (open === 0)
    return view.failed.length === 0 ? "drained" : failure(`cannot be moved: ${namesOf(view.failed)}`);
  if (drain.deadlineMs > 0 && nowMs >= drain.deadlineMs)
    return failure(`the deadline passed with ${open + view.failed.length} containers still to move`);
  return undefined;
};

/** The next step of every running drain. */
export const planDrains = (cluster: Cluster, seen: Seen, newId: () => string, nowMs: number): Command[] =>
  [...cluster.index.draining].flatMap((node) => {
    const drain = cluster.state.nodes[node]?.drain;
    if (drain === undefined) return [];
    const view = viewDrain(cluster, seen, node, drain);
    const outcome = ending(view, drain, nowMs);
    if (outcome !== undefined) return command("drainEnded", { node, drainId: drain.id, outcome });
    return view.departures
      .slice(0, Math.max(0, drain.parallel - view.moving.length))
      .map(({ container, to }) =>
        command("migrationStarted", {
          id: newId(),
          containerId: container.id,
          from: node,
          to,
          epoch: (container.allocation?.epoch ?? 0) + 1,
          mode: MigrationMode.AUTO,
          blackoutBudgetMs: container.spec?.blackoutBudgetMs ?? 0,
          drainId: drain.id,
          bandwidthBytesPerSecond: 0,
          reason: "drain",
        }),
      );
  });
