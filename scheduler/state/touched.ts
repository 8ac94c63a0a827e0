/** What of nodes' orders may have changed: each change of the state marks what follows from it, and nothing else is looked at. */
import type { Checkpoint } from "../../proto/gen/godwit/v1/checkpoint.ts";
import type { Container, Migration, State } from "../../proto/gen/godwit/v1/log.ts";

export interface TouchedPeers {
  /** Goes up with every change. */
  version: number;
  /** Nodes that have come, gone, or changed; for the leader to empty. */
  readonly changed: Set<string>;
}

/** Of one node's Desired. */
export interface Touched {
  readonly containers: Set<string>;
  /** That it keeps of other nodes' containers. */
  readonly checkpoints: Set<string>;
}

/** The parts of a cluster that this is about. */
interface Marked {
  readonly state: State;
  readonly index: { readonly moving: ReadonlySet<string> };
  readonly touched: Map<string, Touched>;
  readonly peers: TouchedPeers;
}

/** Something of the node's Desired may have changed: the orders of a container, of a checkpoint, or what is the node's own. */
export const touchNode = (
  { touched }: Pick<Marked, "touched">,
  node: string,
  what: { readonly container?: string; readonly checkpoint?: string } = {},
): void => {
  let all = touched.get(node);
  if (all === undefined) touched.set(node, (all = { containers: new Set(), checkpoints: new Set() }));
  if (what.container !== undefined) all.containers.add(what.container);
  if (what.checkpoint !== undefined) all.checkpoints.add(what.checkpoint);
};

/** Both sides have orders for it. */
export const touchMigration = (cluster: Marked, { containerId, from, to }: Migration): void => {
  touchNode(cluster, from, { container: containerId });
  touchNode(cluster, to, { container: containerId });
};

/** Whoever has orders for it. */
export const touchContainer = (cluster: Marked, { allocation, id, migrationId }: Container): void => {
  if (allocation !== undefined) touchNode(cluster, allocation.node, { container: id });
  const migration = cluster.state.migrations[migrationId];
  if (migration !== undefined) touchMigration(cluster, migration);
};

/** Its source, its keepers, and who is to begin from it have orders that name it. */
export const touchCheckpoint = (cluster: Marked, { containerId, id, keepers, source }: Checkpoint): void => {
  touchNode(cluster, source, { container: containerId });
  const owner = cluster.state.containers[containerId]?.allocation?.node;
  if (owner !== undefined && owner !== source) touchNode(cluster, owner, { container: containerId });
  for (const keeper of keepers) touchNode(cluster, keeper, { checkpoint: id });
};

/** Another address or key: the orders that name the node change, and what all others have to know. */
export const touchPeers = (cluster: Marked, name: string): void => {
  const { index, peers, state } = cluster;
  peers.version += 1;
  peers.changed.add(name);
  for (const id of index.moving) {
    const migration = state.migrations[id];
    if (migration?.from === name || migration?.to === name) touchMigration(cluster, migration);
  }
  for (const id in state.checkpoints) {
    const checkpoint = state.checkpoints[id];
    if (checkpoint?.source === name || checkpoint?.keepers.includes(name) === true)
      touchCheckpoint(cluster, checkpoint);
  }
};

export const forgetTouched = ({ peers, touched }: Marked): void => {
  touched.clear();
  peers.changed.clear();
};
