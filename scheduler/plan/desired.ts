/** What one node has to do, in full: state and reports in, message out. */
import {
  Role,
  type DesiredAllocation,
  type MigrationOrder,
  type NetworkSettings,
  type Peer,
} from "../../proto/gen/godwit/v1/agent.ts";
import { HealthState, type ContainerSpec, type Image } from "../../proto/gen/godwit/v1/spec.ts";
import {
  DesiredState,
  MigrationState,
  type Container,
  type Migration,
} from "../../proto/gen/godwit/v1/log.ts";
import {
  CheckpointState,
  type CheckpointPeer,
  type KeptCheckpoint,
} from "../../proto/gen/godwit/v1/checkpoint.ts";
import { CONTAINER_CIDR, nodeAddress, OVERLAY_MTU, PREFIX_LENGTH, VXLAN_ID } from "../model/network.ts";
import { imageOf } from "../state/apply-image.ts";
import { chainOf } from "../state/checkpoint-chain.ts";
import type { Cluster } from "../state/cluster.ts";
import { mayBeReleased } from "./arrived.ts";
import type { Volatile } from "./volatile.ts";

/** A Desired before it is given its place in the order of messages, and its peers. */
export interface DesiredContent {
  readonly allocations: DesiredAllocation[];
  readonly network: NetworkSettings;
  readonly keptCheckpoints: KeptCheckpoint[];
}

const orderOf = (
  { state }: Cluster,
  migration: Migration,
  role: Role,
  copy: boolean,
  pageSession = 0,
): MigrationOrder => {
  const peerNode = role === Role.SOURCE || role === Role.RELEASED ? migration.to : migration.from;
  return {
    id: migration.id,
    peerNode,
    mode: migration.mode,
    blackoutBudgetMs: migration.blackoutBudgetMs,
    copy: role === Role.SOURCE && copy,
    switched: migration.state === MigrationState.SWITCHED,
    peerKey: state.nodes[peerNode]?.info?.streamKey ?? Buffer.alloc(0),
    bandwidthBytesPerSecond: migration.bandwidthBytesPerSecond,
    pageSession: role === Role.SOURCE ? pageSession : 0,
  };
};

const peerOf = ({ state }: Cluster, node: string): CheckpointPeer => ({
  node,
  key: state.nodes[node]?.info?.streamKey ?? Buffer.alloc(0),
});

/** What is to be taken of it, and what it begins from. */
const checkpointOrders = (
  cluster: Cluster,
  { allocation, id }: Container,
): Pick<DesiredAllocation, "checkpoint" | "restore"> => {
  const orders: Pick<DesiredAllocation, "checkpoint" | "restore"> = {};
  for (const checkpointId of cluster.index.checkpointsOf.get(id) ?? []) {
    const checkpoint = cluster.state.checkpoints[checkpointId];
    if (checkpoint === undefined) continue;
    const { baseId, epoch, keepers, key, state } = checkpoint;
    if (state === CheckpointState.TAKING && epoch === allocation?.epoch)
      orders.checkpoint = {
        id: checkpointId,
        key,
        keepers: keepers.map((node) => peerOf(cluster, node)),
        baseId,
      };
    if (checkpointId === allocation?.restoreFrom) {
      const base = chainOf(cluster, baseId).map((link) => ({ id: link.id, key: link.key }));
      orders.restore = { checkpointId, key, base };
    }
  }
  return orders;
};

/** The same whether its name stands for another one by now or not: what has not changed for the node is not told. */
const orderedImage = (cluster: Cluster, spec: ContainerSpec): Image | undefined => {
  const image = imageOf(cluster, spec);
  return image === undefined ? undefined : { ...image, name: spec.image, importedAtMs: 0 };
};

const allocationFor = (
  cluster: Cluster,
  container: Container,
  role: Role,
  epoch: number,
  migration?: MigrationOrder,
): DesiredAllocation => ({
  containerId: container.id,
  spec: container.spec,
  epoch,
  role,
  // One that makes room for another is stopped, whatever is wanted of it.
  desired: cluster.index.placement.preempted.has(container.id) ? DesiredState.STOPPED : container.desired,
  restartGeneration: container.restartGeneration,
  address: `${container.address}/${PREFIX_LENGTH}`,
  mac: container.mac,
  image: container.spec === undefined ? undefined : orderedImage(cluster, container.spec),
  health: container.allocation?.health ?? HealthState.UNSPECIFIED,
  inheritsEpoch: role === Role.OWNER ? (container.allocation?.inheritsEpoch ?? 0) : 0,
  migration,
  ...(role === Role.OWNER ? checkpointOrders(cluster, container) : {}),
});

const ownedAllocation = (
  cluster: Cluster,
  volatile: Volatile,
  container: Container,
  epoch: number,
): DesiredAllocation => {
  const migration = cluster.state.migrations[container.migrationId];
  if (migration?.state === MigrationState.RUNNING) {
    const seen = volatile.migrations.get(migration.id);
    const copy = seen?.copy === true;
    return allocationFor(
      cluster,
      container,
      Role.SOURCE,
      epoch,
      orderOf(cluster, migration, Role.SOURCE, copy, seen?.target?.pageSession),
    );
  }
  // Until both sides are done, the owner knows that it is to run what it restored and not to start afresh.
  return migration?.state === MigrationState.SWITCHED
    ? allocationFor(cluster, container, Role.OWNER, epoch, orderOf(cluster, migration, Role.OWNER, false))
    : allocationFor(cluster, container, Role.OWNER, epoch);
};

/** All nodes, the same for each: an agent knows which one it is itself. */
export const peersOf = ({ state }: Cluster): Peer[] =>
  Object.entries(state.nodes)
    .map(([node, { info }]) => ({ node, underlayAddress: info?.underlayAddress ?? "" }))
    .toSorted((a, b) => (a.node < b.node ? -1 : 1));

/** Ids of all containers that a node may have orders for. */
export const containersOf = ({ index }: Cluster, node: string): Set<string> =>
  new Set([index.onNode, index.arriving, index.leaving].flatMap((map) => [...(map.get(node) ?? [])]));

/**
 * What the node has to do with one container; undefined: nothing, so that whatever it has of it is to go. A container
 * that is being removed is not named, and so removed by the agent.
 */
export const desiredAllocation = (
  cluster: Cluster,
  volatile: Volatile,
  node: string,
  id: string,
): DesiredAllocation | undefined => {
  const { index, state } = cluster;
  const container = state.containers[id];
  if (container === undefined || container.removing || state.nodes[node] === undefined) return undefined;
  const isLeaving = index.leaving.get(node)?.has(id) === true;
  if (!isLeaving && index.arriving.get(node)?.has(id) !== true)
    return container.allocation?.node === node
      ? ownedAllocation(cluster, volatile, container, container.allocation.epoch)
      : undefined;
  const migration = state.migrations[container.migrationId];
  if (migration === undefined) return undefined;
  const role = isLeaving ? Role.RELEASED : Role.TARGET;
  // The copy that is released was made before the switch, under the epoch before.
  const epoch = role === Role.TARGET ? migration.epoch : migration.epoch - 1;
  // Until the container runs at its target, with all of its memory, the source keeps its frozen copy as it is.
  const pageSession = volatile.migrations.get(migration.id)?.target?.pageSession;
  const held = role === Role.RELEASED && !mayBeReleased(volatile, migration) ? Role.SOURCE : role;
  const order = orderOf(cluster, migration, held, false, pageSession);
  return allocationFor(cluster, container, held, epoch, order);
};

export const keptCheckpoint = (cluster: Cluster, node: string, id: string): KeptCheckpoint | undefined =>
  cluster.index.keeping.get(node)?.has(id) === true
    ? { id, source: peerOf(cluster, cluster.state.checkpoints[id]?.source ?? "") }
    : undefined;

export const networkOf = (index: number): NetworkSettings => ({
  vni: VXLAN_ID,
  cidr: CONTAINER_CIDR,
  nodeAddress: nodeAddress(index),
  mtu: OVERLAY_MTU,
});

/** All of it: what an agent has to arrive at, however it is told. */
export const desiredFor = (
  cluster: Cluster,
  volatile: Volatile,
  nodeName: string,
): DesiredContent | undefined => {
  const node = cluster.state.nodes[nodeName];
  if (node === undefined) return undefined;
  return {
    allocations: [...containersOf(cluster, nodeName)]
      .toSorted()
      .flatMap((id) => desiredAllocation(cluster, volatile, nodeName, id) ?? []),
    keptCheckpoints: [...(cluster.index.keeping.get(nodeName) ?? [])]
      .toSorted()
      .flatMap((id) => keptCheckpoint(cluster, nodeName, id) ?? []),
    network: networkOf(node.index),
  };
};
