import {
  NodeState,
  type Node,
  type NodeJoined,
  type NodeKeyTrusted,
  type NodeRemoved,
  type NodeSchedulableSet,
  type NodeStateChanged,
} from "../../proto/gen/godwit/v1/log.ts";
import { MAX_NODES } from "../model/network.ts";
import { nodeInfoFault, STREAM_KEY_BYTES } from "../model/report-check.ts";
import { keyCheck, sameKey } from "./node-key.ts";
import { endDrain } from "./apply-drain.ts";
import { endMovesOf } from "./apply-fence.ts";
import { reindexNode, type Cluster } from "./cluster.ts";
import { touchNode, touchPeers } from "./touched.ts";
import { forgetEvacuees } from "./evacuation.ts";
import { isFenced } from "./failover.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

const missing = (node: string): Outcome => reject("not-found", `there is no node ${node}`);

const freeIndex = (cluster: Cluster): number | undefined => {
  const { state } = cluster;
  if (state.nextNodeIndex < MAX_NODES) return state.nextNodeIndex;
  const taken = new Set(Object.values(state.nodes).map((node) => node.index));
  for (let index = 0; index < MAX_NODES; index += 1) if (!taken.has(index)) return index;
  return undefined;
};

const becomeReady = (cluster: Cluster, name: string, node: Node): void => {
  const set = (): void =>
    void Object.assign(node, { state: NodeState.READY, stateReason: "", fenced: false });
  if (isFenced(node)) reindexNode(cluster, name, set);
  else set();
  cluster.altered.add(name);
};

export const nodeJoined = (cluster: Cluster, { info, incarnation }: NodeJoined): Outcome => {
  if (info === undefined) return reject("invalid", "a node joined without saying what it is");
  const fault = nodeInfoFault(info);
  if (fault !== undefined) return reject("invalid", fault);
  const { state } = cluster;
  const known = state.nodes[info.name];
  if (known !== undefined) {
    const refused = keyCheck(known, info);
    if (refused !== undefined) return refused;
    const moved =
      known.info?.underlayAddress !== info.underlayAddress ||
      // Orders of moves that are under way carry it.
      !sameKey(known.info.streamKey, info.streamKey);
    becomeReady(cluster, info.name, known);
    // Whatever another machine, or this one before it was started anew, has said of its fence.
    if (known.incarnation !== incarnation) Object.assign(known, { fenceMs: 0, fenceFault: "" });
    Object.assign(known, { info, incarnation });
    if (moved) touchPeers(cluster, info.name);
    touchNode(cluster, info.name);
    cluster.news.freed.add(info.name);
    return undefined;
  }
  const index = freeIndex(cluster);
  if (index === undefined)
    return reject("exhausted", `the cluster has ${MAX_NODES} nodes already: remove one first`);
  reindexNode(cluster, info.name, () => {
    state.nodes[info.name] = {
      info,
      state: NodeState.READY,
      schedulable: true,
      incarnation,
      index,
      drain: undefined,
      stateReason: "",
      fenceMs: 0,
      fenceFault: "",
      fenced: false,
      labels: {},
    };
  });
  cluster.news.freed.add(info.name);
  state.nextNodeIndex = Math.max(state.nextNodeIndex, index + 1);
  touchPeers(cluster, info.name);
  touchNode(cluster, info.name);
  return undefined;
};

export const nodeKeyTrusted = (cluster: Cluster, { node: name, key }: NodeKeyTrusted): Outcome => {
  const node = cluster.state.nodes[name];
  if (node?.info === undefined) return missing(name);
  if (key.length !== STREAM_KEY_BYTES)
    return reject("invalid", `a stream key is ${STREAM_KEY_BYTES} bytes, and not ${key.length}`);
  node.info = { ...node.info, streamKey: key };
  touchPeers(cluster, name);
  return undefined;
};

export const nodeStateChanged = (cluster: Cluster, change: NodeStateChanged): Outcome => {
  const node = cluster.state.nodes[change.node];
  if (node === undefined) return missing(change.node);
  if (change.state === NodeState.UNSPECIFIED)
    return reject("invalid", `no state given for node ${change.node}`);
  if (change.state === NodeState.READY) becomeReady(cluster, change.node, node);
  else {
    Object.assign(node, { state: change.state, stateReason: change.reason });
    cluster.altered.add(change.node);
  }
  touchNode(cluster, change.node);
  (change.state === NodeState.READY ? cluster.news.freed : cluster.news.gained).add(change.node);
  return undefined;
};

export const nodeSchedulableSet = (
  cluster: Cluster,
  set: NodeSchedulableSet,
  { atMs }: ApplyContext,
): Outcome => {
  const node = cluster.state.nodes[set.node];
  if (node === undefined) return missing(set.node);
  node.schedulable = set.schedulable;
  cluster.altered.add(set.node);
  // Without it others may be the place that has the fewest of a service.
  (set.schedulable ? cluster.news.freed : cluster.news.gained).add(set.node);
  // A node that takes containers again cannot be drained at the same time.
  if (set.schedulable && node.drain?.outcome === "") endDrain(cluster, set.node, "cancelled", atMs);
  return undefined;
};

/**
 * Forgets a node. Its containers wait to be placed anew, with a higher epoch than the copies it may still hold; one that
 * it was about to run goes on at the host that still has it frozen.
 */
export const nodeRemoved = (
  cluster: Cluster,
  { node: name }: NodeRemoved,
  context: ApplyContext,
): Outcome => {
  const { state, index } = cluster;
  const node = state.nodes[name];
  if (node === undefined) return missing(name);
  const holds = index.onNode.has(name) || index.arriving.has(name) || index.leaving.has(name);
  if (node.state !== NodeState.LOST && holds)
    return reject(
      "refused",
      `node ${name} still has containers: drain it first, or stop its agent and wait until it is lost`,
    );
  endMovesOf(cluster, name, { reason: `node ${name} was removed`, atMs: context.atMs, isForGood: true });
  forgetEvacuees(cluster, name);
  reindexNode(cluster, name, () => {
    delete state.nodes[name];
  });
  index.draining.delete(name);
  index.returning.delete(name);
  touchPeers(cluster, name);
  return undefined;
};
