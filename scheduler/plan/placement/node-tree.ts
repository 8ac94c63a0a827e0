/**
 * Nodes in the order in which a container would take them, with the most that is free below each branch: the best one
 * with room is found without looking at those that have none. A tree is never changed, so a plan that is only tried out
 * goes on from everybody's and costs nothing but its own changes. Pure; its shape follows from the names alone.
 */
import type { Resources } from "../../../proto/gen/godwit/v1/spec.ts";

export interface Candidate {
  readonly name: string;
  /** Under heavy pressure: after all that are not. */
  readonly isPressed: boolean;
  /** Without what depends on the container. Lower is better. */
  readonly cost: number;
  readonly free: Resources;
}

interface Branch {
  readonly candidate: Candidate;
  readonly height: number;
  readonly left: NodeTree;
  readonly right: NodeTree;
  /** Of each resource, the most that any node of the branch has. */
  readonly most: Resources;
}
export type NodeTree = Branch | undefined;

const isBefore = (a: Candidate, b: Candidate): boolean => {
  if (a.isPressed !== b.isPressed) return b.isPressed;
  return a.cost === b.cost ? a.name < b.name : a.cost < b.cost;
};

/** FNV-1a: a number of no meaning, so that trees are as good as balanced. */
const heightOf = (name: string): number => {
  let hash = 0x811c9dc5;
  for (let at = 0; at < name.length; at += 1) hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return (hash ^ (hash >>> 13)) >>> 0;
};

const mostOf = (free: Resources, left: NodeTree, right: NodeTree): Resources => {
  let { memoryBytes, cpuMillis, pids, diskBytes } = free;
  for (const side of [left, right]) {
    if (side === undefined) continue;
    memoryBytes = Math.max(memoryBytes, side.most.memoryBytes);
    cpuMillis = Math.max(cpuMillis, side.most.cpuMillis);
    pids = Math.max(pids, side.most.pids);
    diskBytes = Math.max(diskBytes, side.most.diskBytes);
  }
  return { memoryBytes, cpuMillis, pids, diskBytes };
};

const branch = (candidate: Candidate, height: number, left: NodeTree, right: NodeTree): Branch => ({
  candidate,
  height,
  left,
  right,
  most: left === undefined && right === undefined ? candidate.free : mostOf(candidate.free, left, right),
});

const isHigher = (a: Branch, b: Branch): boolean =>
  a.height === b.height ? a.candidate.name < b.candidate.name : a.height > b.height;

const split = (tree: NodeTree, at: Candidate): readonly [NodeTree, NodeTree] => {
  if (tree === undefined) return [undefined, undefined];
  const { candidate, height, left, right } = tree;
  if (isBefore(candidate, at)) {
    const [less, more] = split(right, at);
    return [branch(candidate, height, left, less), more];
  }
  const [less, more] = split(left, at);
  return [less, branch(candidate, height, more, right)];
};

const joined = (left: NodeTree, right: NodeTree): NodeTree => {
  if (left === undefined) return right;
  if (right === undefined) return left;
  return isHigher(left, right)
    ? branch(left.candidate, left.height, left.left, joined(left.right, right))
    : branch(right.candidate, right.height, joined(left, right.left), right.right);
};

const insert = (tree: NodeTree, added: Branch): Branch => {
  if (tree === undefined) return added;
  const { candidate, height, left, right } = tree;
  if (isHigher(added, tree)) {
    const [less, more] = split(tree, added.candidate);
    return branch(added.candidate, added.height, less, more);
  }
  return isBefore(added.candidate, candidate)
    ? branch(candidate, height, insert(left, added), right)
    : branch(candidate, height, left, insert(right, added));
};

export const withCandidate = (tree: NodeTree, candidate: Candidate): NodeTree =>
  insert(tree, branch(candidate, heightOf(candidate.name), undefined, undefined));

/** @param gone exactly as it is in the tree */
export const withoutCandidate = (tree: NodeTree, gone: Candidate): NodeTree => {
  if (tree === undefined) return undefined;
  const { candidate, height, left, right } = tree;
  if (candidate.name === gone.name) return joined(left, right);
  return isBefore(gone, candidate)
    ? branch(candidate, height, withoutCandidate(left, gone), right)
    : branch(candidate, height, left, withoutCandidate(right, gone));
};

const hasNone = ({ most }: Branch, wanted: Resources): boolean =>
  (wanted.memoryBytes > 0 && wanted.memoryBytes > most.memoryBytes) ||
  (wanted.cpuMillis > 0 && wanted.cpuMillis > most.cpuMillis) ||
  (wanted.pids > 0 && wanted.pids > most.pids) ||
  (wanted.diskBytes > 0 && wanted.diskBytes > most.diskBytes);

/**
 * Shows the nodes in their order, without branches in which none has the room, until `look` returns false; and returns
 * false then.
 */
export const showInOrder = (
  tree: NodeTree,
  wanted: Resources,
  look: (candidate: Candidate) => boolean,
): boolean => {
  if (tree === undefined || hasNone(tree, wanted)) return true;
  return (
    showInOrder(tree.left, wanted, look) && look(tree.candidate) && showInOrder(tree.right, wanted, look)
  );
};
