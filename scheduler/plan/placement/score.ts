/** Which of the nodes that fit is the best. Pure; the weights are stated here and nowhere else. */
import { PlacementStrategy, type Pressure } from "../../../proto/gen/godwit/v1/spec.ts";
import type { Load } from "../../../proto/gen/godwit/v1/agent.ts";
import type { Container, Node } from "../../../proto/gen/godwit/v1/log.ts";
import { promisedShare } from "../../state/capacity.ts";
import type { Cluster, NodeUse } from "../../state/cluster.ts";
import type { NodeSeen } from "../node-seen.ts";

/** Weight of what is used and of waiting for it, in shares of what is promised. */
const LOAD_WEIGHT = 0.5;
const PRESSURE_WEIGHT = 0.5;
/** Containers without limits promise nothing, and are many all the same; this is what endlessly many of them weigh. */
const CROWD_WEIGHT = 0.1;
/** At so many containers a cpu it is half of that. */
const CROWD_PER_CPU = 10;
/** About what one container more weighs on a small node. */
export const IMAGE_WEIGHT = 0.002;
/** Loads are compared in such steps, or the noise in them would decide between equals. */
const STEP = 0.1;

/** Percent of the time. A node beyond one of these takes containers only when no other does. */
const HEAVY = { cpu10: 80, cpu60: 50, memory10: 25, memoryFull10: 10 } as const;
/** Less of the disk than this is left. */
const DISK_NEARLY_FULL = 0.02;

const stepped = (share: number): number => Math.round(Math.min(1, Math.max(0, share)) / STEP) * STEP;

/** Why the node is taken only when no other fits; undefined: it is not under pressure, as far as it says. */
export const heavyPressure = (node: Node, load: Load | undefined): "cpu" | "memory" | "disk" | undefined => {
  if (load === undefined) return undefined;
  const disk = node.info?.diskBytes ?? 0;
  if (load.diskBytesFree > 0 && load.diskBytesFree < disk * DISK_NEARLY_FULL) return "disk";
  const { pressure } = load;
  if (pressure === undefined) return undefined;
  const { cpuSome, memoryFull, memorySome } = pressure;
  if ((memorySome?.avg10 ?? 0) >= HEAVY.memory10 || (memoryFull?.avg10 ?? 0) >= HEAVY.memoryFull10)
    return "memory";
  if ((cpuSome?.avg10 ?? 0) >= HEAVY.cpu10 || (cpuSome?.avg60 ?? 0) >= HEAVY.cpu60) return "cpu";
  return undefined;
};

/** The longest that tasks wait for anything, as a share of the time. */
const pressureShare = (pressure: Pressure | undefined): number =>
  pressure === undefined
    ? 0
    : Math.max(pressure.cpuSome?.avg10 ?? 0, pressure.memorySome?.avg10 ?? 0, pressure.ioSome?.avg10 ?? 0) /
      100;

const loadShare = (node: Node, load: Load): number =>
  Math.max(
    load.cpuMillisUsed / Math.max(1, node.info?.cpuMillis ?? 0),
    load.memoryBytesUsed / Math.max(1, node.info?.memoryBytes ?? 0),
  );

export const strategyOf = (cluster: Cluster, { spec }: Container): PlacementStrategy => {
  const own = spec?.strategy ?? PlacementStrategy.UNSPECIFIED;
  const chosen = own === PlacementStrategy.UNSPECIFIED ? cluster.state.defaultStrategy : own;
  return chosen === PlacementStrategy.PACK ? PlacementStrategy.PACK : PlacementStrategy.SPREAD;
};

/** What does not depend on the container. Lower is better. */
export const baseCostOf = (
  strategy: PlacementStrategy,
  node: Node,
  use: Readonly<NodeUse>,
  seen: NodeSeen | undefined,
): number => {
  const crowd = use.containers / Math.max(1, (node.info?.cpuMillis ?? 0) / 1000);
  const full = promisedShare(node, use) + (CROWD_WEIGHT * crowd) / (crowd + CROWD_PER_CPU);
  if (strategy === PlacementStrategy.PACK) return -full;
  const load = seen?.report.load;
  if (load === undefined) return full;
  return (
    full +
    LOAD_WEIGHT * stepped(loadShare(node, load)) +
    PRESSURE_WEIGHT * stepped(pressureShare(load.pressure))
  );
};

/** Of bringing the image there. A node that has not reported is taken to have it. */
export const fetchCostOf = (imageDigest: string, seen: NodeSeen | undefined): number =>
  seen === undefined || seen.images.has(imageDigest) ? 0 : IMAGE_WEIGHT;

/** Lower is better. */
export const costOf = (
  strategy: PlacementStrategy,
  imageDigest: string,
  node: Node,
  use: Readonly<NodeUse>,
  seen: NodeSeen | undefined,
): number => baseCostOf(strategy, node, use, seen) + fetchCostOf(imageDigest, seen);

const percent = (share: number): string => `${Math.round(share * 100)}%`;

/** What went into the cost, in words. */
export const describeScore = (
  imageDigest: string,
  node: Node,
  use: Readonly<NodeUse>,
  seen: NodeSeen | undefined,
): string => {
  const parts = [
    `${percent(promisedShare(node, use))} promised`,
    `${use.containers} container${use.containers === 1 ? "" : "s"}`,
  ];
  const load = seen?.report.load;
  if (load !== undefined) {
    parts.push(`load ${percent(loadShare(node, load))}`);
    const heavy = heavyPressure(node, load);
    if (heavy !== undefined) parts.push(`under heavy ${heavy} pressure, so only when no other fits`);
    else if (load.pressure !== undefined) parts.push(`pressure ${percent(pressureShare(load.pressure))}`);
  }
  if (seen !== undefined && imageDigest !== "")
    parts.push(seen.images.has(imageDigest) ? "image there" : "image to be fetched");
  return parts.join(", ");
};
