/** Where a container would be placed as things are, and for each other node why not. */
import type { Container } from "../../../proto/gen/godwit/v1/log.ts";
import { PlacementStrategy } from "../../../proto/gen/godwit/v1/spec.ts";
import { nameOf, type Cluster } from "../../state/cluster.ts";
import { demandOf } from "../../state/fit/demand.ts";
import { obstaclesOf, spotOf } from "../../state/fit/fit.ts";
import { priorityOf } from "../../state/placement-index.ts";
import { PlannedDisruptions } from "../disruption.ts";
import { explainFailure } from "../placement.ts";
import type { Volatile } from "../volatile.ts";
import { ReasonTally, type ReasonCount } from "./explain.ts";
import { planRoom } from "./make-room.ts";
import { PlannedUse } from "./planned-use.ts";
import { costOf, describeScore, heavyPressure, strategyOf } from "./score.ts";
import { pinOf } from "./waiting-room.ts";

export interface PlacementNodeView {
  readonly node: string;
  readonly fits: boolean;
  readonly reasons: readonly string[];
  /** How it ranks, where it fits. */
  readonly remark: string;
}
export interface PlacementView {
  /** Undefined: it would wait. */
  readonly node: string | undefined;
  readonly why: string;
  /** Those that fit, best first, then the others, most frequent reason first. */
  readonly nodes: readonly PlacementNodeView[];
  readonly reasons: readonly ReasonCount[];
  /** What would be done to make room for it. */
  readonly preemption: readonly {
    readonly container: string;
    readonly node: string;
    /** Undefined: it would be stopped. */
    readonly to: string | undefined;
  }[];
}

interface Looked {
  readonly name: string;
  readonly obstacles: readonly { readonly message: string; readonly many: string }[];
  readonly remark: string;
  readonly tier: number;
  readonly cost: number;
}

export const viewPlacement = (
  cluster: Cluster,
  seen: Pick<Volatile, "migrations" | "nodes" | "order">,
  container: Container,
): PlacementView => {
  const demand = demandOf(cluster, container);
  const strategy = strategyOf(cluster, container);
  const digest = container.spec?.imageDigest ?? "";
  const pin = pinOf(container);
  const tally = new ReasonTally();
  const looked: Looked[] = [];
  for (const [name, node] of Object.entries(cluster.state.nodes)) {
    const spot = spotOf(cluster, name, node);
    const pinned = pin === undefined || pin === name ? [] : [notPinned(name, pin)];
    const obstacles = [...pinned, ...obstaclesOf(demand, spot)];
    if (obstacles.length > 0) tally.add(name, obstacles);
    const report = seen.nodes.get(name);
    looked.push({
      name,
      obstacles,
      remark: describeScore(digest, node, spot.use, report),
      tier: heavyPressure(node, report?.report.load) === undefined ? 0 : 1,
      cost: costOf(strategy, digest, node, spot.use, report),
    });
  }
  const frequency = new Map<string, number>();
  for (const { obstacles } of looked)
    for (const { many } of obstacles) frequency.set(many, (frequency.get(many) ?? 0) + 1);
  const often = ({ obstacles }: Looked): number =>
    Math.max(0, ...obstacles.map(({ many }) => frequency.get(many) ?? 0));
  looked.sort(
    (a, b) =>
      Number(a.obstacles.length > 0) - Number(b.obstacles.length > 0) ||
      (a.obstacles.length > 0 ? often(b) - often(a) : a.tier - b.tier || a.cost - b.cost) ||
      (a.name < b.name ? -1 : 1),
  );
  const nodes = looked.map(({ name, obstacles, remark }) => ({
    node: name,
    fits: obstacles.length === 0,
    reasons: obstacles.map(({ message }) => message),
    remark: obstacles.length === 0 ? remark : "",
  }));
  const common = { nodes, reasons: tally.reasons(), preemption: [] };
  const fitting = nodes.filter(({ fits }) => fits);
  const [best] = fitting;
  if (best !== undefined)
    return { ...common, node: best.node, why: reasonFor(best, fitting.length, pin, strategy) };
  const room = planRoom(cluster, seen, container, {
    planned: new PlannedUse(cluster),
    disruptions: new PlannedDisruptions(cluster),
  });
  const failure = explainFailure(cluster, container, pin === undefined ? {} : { only: pin });
  if (room === undefined) return { ...common, node: undefined, why: failure };
  const { moves, node, stops } = room;
  return {
    ...common,
    node,
    why: `others of a lower priority than ${priorityOf(container)} make room for it; as things are, ${failure}`,
    preemption: [
      ...moves.map(({ container: other, to }) => ({ container: nameOf(other), node, to })),
      ...stops.map((other) => ({ container: nameOf(other), node, to: undefined })),
    ],
  };
};

const notPinned = (
  name: string,
  pin: string,
): { message: string; one: string; many: string; code: "refused" } => ({
  code: "refused",
  message: `node ${name} is not ${pin}, which was asked for`,
  one: `is not ${pin}, which was asked for`,
  many: `are not ${pin}, which was asked for`,
});

const reasonFor = (
  best: PlacementNodeView,
  fitting: number,
  pin: string | undefined,
  strategy: PlacementStrategy,
): string => {
  if (pin !== undefined) return `as asked for with --node ${pin}: ${best.remark}`;
  if (fitting === 1) return `the only node that fits: ${best.remark}`;
  const word = strategy === PlacementStrategy.PACK ? "fullest (pack)" : "emptiest (spread)";
  return `the ${word} of ${fitting} nodes that fit: ${best.remark}`;
};
