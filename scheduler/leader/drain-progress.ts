import type { DrainItem } from "../../proto/gen/godwit/v1/api.ts";
import { viewDrain, type DrainView } from "../plan/drain.ts";
import type { Seen } from "../plan/movable.ts";
import type { DrainProgress } from "../public.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";

const FAILED = "failed: ";

const departing = (view: DrainView): DrainItem[] =>
  view.departures.map(({ container, to }) => ({
    container: nameOf(container),
    to,
    reason: "to be moved",
    migrationId: "",
    blackoutMs: 0,
  }));

const remainingOf = (view: DrainView): DrainItem[] => [
  ...view.moving,
  ...departing(view),
  ...view.waiting,
  ...view.staying,
];

/** What a drain would do if it began now. */
export const plannedDrain = (cluster: Cluster, seen: Seen, node: string): DrainProgress => {
  const view = viewDrain(cluster, seen, node);
  return {
    node,
    state: "planned",
    moved: [],
    failed: view.failed,
    remaining: remainingOf(view),
    totalMs: 0,
    error: "",
  };
};

/** Of the node's running or last drain. */
export const drainProgressOf = (
  cluster: Cluster,
  seen: Seen,
  node: string,
  nowMs: number,
): DrainProgress | undefined => {
  const drain = cluster.state.nodes[node]?.drain;
  if (drain === undefined) return undefined;
  const { outcome } = drain;
  const view = viewDrain(cluster, seen, node, drain);
  return {
    node,
    state:
      outcome === "" ? "draining" : outcome === "drained" || outcome === "cancelled" ? outcome : "failed",
    moved: view.moved,
    failed: view.failed,
    remaining: remainingOf(view),
    totalMs: (outcome === "" ? nowMs : drain.endedAtMs) - drain.startedAtMs,
    error: outcome.startsWith(FAILED) ? outcome.slice(FAILED.length) : "",
  };
};
