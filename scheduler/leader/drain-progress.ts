/** Drains and returns as operators are told of them. Pure. */
import type { DrainItem, DrainPlanItem } from "../../proto/gen/godwit/v1/api.ts";
import type { Container } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import type { DrainProgress } from "../maintenance.ts";
import { drainItem, hypotheticalDrain, viewDrain, type DrainView } from "../plan/drain.ts";
import type { Course } from "../plan/drain-course.ts";
import type { Seen } from "../plan/movable.ts";
import { viewReturn, type ReturnView } from "../plan/return.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";

const FAILED = "failed: ";

const remainingOf = (view: DrainView): DrainItem[] => [
  ...view.moving,
  ...view.departures.map(({ container, mode, to, why }) =>
    drainItem(nameOf(container), {
      to,
      mode,
      reason: why === "" ? "to be moved" : `to be started there: ${why}`,
    }),
  ),
  ...view.stops.map((container) => drainItem(nameOf(container), { reason: "to be stopped" })),
  ...view.waiting,
  ...view.deferred,
  ...view.staying,
];

const planItem = (container: string, rest: Partial<DrainPlanItem>): DrainPlanItem => ({
  container,
  containerId: "",
  action: "wait",
  to: "",
  reason: "",
  atDeadline: false,
  remark: "",
  ...rest,
});

const coursePlan = (container: Container, course: Course): DrainPlanItem => {
  const of = (rest: Partial<DrainPlanItem>): DrainPlanItem =>
    planItem(nameOf(container), { containerId: container.id, ...rest });
  switch (course.kind) {
    case "live":
    case "cold":
      return of({ action: course.kind, to: course.to, reason: course.why });
    case "later": {
      const { rung, why } = course;
      return of({
        action: rung.kind,
        to: rung.kind === "cold" ? rung.to : "",
        reason: why,
        atDeadline: true,
      });
    }
    case "stop":
    case "wait":
      return of({ action: course.kind, reason: course.why });
    case "stay":
    case "failed":
      return of({ action: "stay", reason: course.why });
  }
};

const inOrder = (a: DrainPlanItem, b: DrainPlanItem): number => (a.container < b.container ? -1 : 1);

/** What a drain would do if it began now. */
export const plannedDrain = (
  cluster: Cluster,
  seen: Seen,
  node: string,
  options: { readonly force: boolean; readonly deadlineMs: number; readonly nowMs: number },
): DrainProgress => {
  const { deadlineMs, force, nowMs } = options;
  const drain = hypotheticalDrain(force, deadlineMs === 0 ? 0 : nowMs + deadlineMs, nowMs);
  const view = viewDrain(cluster, seen, node, { drain, nowMs });
  const moving = view.moving.map(({ container, reason, to }) =>
    planItem(container, { reason: to === "" || to === node ? reason : `${reason} to ${to}` }),
  );
  return {
    node,
    state: "planned",
    moved: [],
    failed: view.failed,
    remaining: remainingOf(view),
    totalMs: 0,
    error: "",
    plan: [...view.courses.map(({ container, course }) => coursePlan(container, course)), ...moving].sort(
      inOrder,
    ),
  };
};

interface Outcome {
  readonly outcome: string;
  readonly startedAtMs: number;
  readonly endedAtMs: number;
}

const ended = (
  { endedAtMs, outcome, startedAtMs }: Outcome,
  running: "draining" | "returning",
  nowMs: number,
): Pick<DrainProgress, "state" | "totalMs" | "error" | "plan"> => ({
  state:
    outcome === ""
      ? running
      : outcome === "drained" || outcome === "returned" || outcome === "cancelled"
        ? outcome
        : "failed",
  totalMs: (outcome === "" ? nowMs : endedAtMs) - startedAtMs,
  error: outcome.startsWith(FAILED) ? outcome.slice(FAILED.length) : "",
  plan: [],
});

/** Of the node's running or last drain. */
export const drainProgressOf = (
  cluster: Cluster,
  seen: Seen,
  node: string,
  nowMs: number,
): DrainProgress | undefined => {
  const drain = cluster.state.nodes[node]?.drain;
  if (drain === undefined) return undefined;
  const view = viewDrain(cluster, seen, node, { drain, nowMs });
  return {
    node,
    moved: view.moved,
    failed: view.failed,
    remaining: remainingOf(view),
    ...ended(drain, "draining", nowMs),
  };
};

const comingOf = (view: ReturnView): DrainItem[] => [
  ...view.moving,
  ...view.arrivals.map(({ container, mode }) =>
    drainItem(nameOf(container), {
      mode,
      reason: `to be moved, from ${container.allocation?.node ?? "no node"}`,
    }),
  ),
  ...view.waiting,
  ...view.staying,
];

/** What a return would do if it began now. */
export const plannedReturn = (cluster: Cluster, seen: Seen, node: string): DrainProgress => {
  const view = viewReturn(cluster, seen, node, {});
  const said = (items: readonly DrainItem[], action: string): DrainPlanItem[] =>
    items.map(({ container, reason }) => planItem(container, { action, reason }));
  const arriving = view.arrivals.map(({ container, mode }) =>
    planItem(nameOf(container), {
      containerId: container.id,
      action: mode === MigrationMode.COLD ? "cold" : "live",
      to: node,
      reason: `from ${container.allocation?.node ?? "no node"}`,
    }),
  );
  return {
    node,
    state: "planned",
    moved: [],
    failed: view.failed,
    remaining: comingOf(view),
    totalMs: 0,
    error: "",
    plan: [
      ...arriving,
      ...said([...view.moving, ...view.waiting], "wait"),
      ...said([...view.failed, ...view.staying], "stay"),
    ].sort(inOrder),
  };
};

/** Of the node's running or last return. */
export const returnProgressOf = (
  cluster: Cluster,
  seen: Seen,
  node: string,
  nowMs: number,
): DrainProgress | undefined => {
  const back = cluster.state.nodes[node]?.return;
  if (back === undefined) return undefined;
  const view = viewReturn(cluster, seen, node, { back });
  return {
    node,
    moved: view.moved,
    failed: view.failed,
    remaining: comingOf(view),
    ...ended(back, "returning", nowMs),
  };
};
