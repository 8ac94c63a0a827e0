/** Where containers that were evacuated belong: kept at the node that they left, and named by the container. Pure. */
import type { Container, Evacuee, LeftAlone, Migration, Node } from "../../proto/gen/godwit/v1/log.ts";
import { nameOf, type Cluster } from "./cluster.ts";

const evacueesOf = (node: Node | undefined): readonly Evacuee[] => node?.evacuees?.list ?? [];

const setEvacuees = (node: Node, list: Evacuee[]): void => {
  if (list.length > 0) node.evacuees = { list };
  else delete node.evacuees;
};

/** It has no way back any more. */
export const forgetOrigin = (cluster: Cluster, container: Container): void => {
  const origin = container.originNode;
  if (origin === undefined) return;
  delete container.originNode;
  const node = cluster.state.nodes[origin];
  if (node !== undefined)
    setEvacuees(
      node,
      evacueesOf(node).filter(({ containerId }) => containerId !== container.id),
    );
};

const isEvacuation = ({ state }: Cluster, { drainId, from }: Migration): boolean => {
  const drain = state.nodes[from]?.drain;
  return drain?.evacuate === true && drainId !== "" && drain.id === drainId;
};

/** Ownership of the container has moved by this migration, and its allocation says where to. */
export const followOrigin = (cluster: Cluster, container: Container, migration: Migration): void => {
  const { node = "", epoch = 0 } = container.allocation ?? {};
  if (container.originNode === node) {
    forgetOrigin(cluster, container);
    return;
  }
  const origin = cluster.state.nodes[container.originNode ?? ""];
  const known = evacueesOf(origin).find(({ containerId }) => containerId === container.id);
  // One that was evacuated, and is on its way on, still belongs where it was first; one that somebody has moved since does not.
  if (origin !== undefined && known !== undefined && known.epoch === epoch - 1 && migration.drainId !== "") {
    setEvacuees(
      origin,
      evacueesOf(origin).map((one) => (one === known ? { ...known, epoch } : one)),
    );
    return;
  }
  const from = cluster.state.nodes[migration.from];
  if (from === undefined || !isEvacuation(cluster, migration)) return;
  forgetOrigin(cluster, container);
  container.originNode = migration.from;
  setEvacuees(from, [
    ...evacueesOf(from),
    { containerId: container.id, containerName: nameOf(container), epoch },
  ]);
};

/** The node is forgotten, and with it that anything belongs there. */
export const forgetEvacuees = ({ state }: Cluster, name: string): void => {
  for (const { containerId } of evacueesOf(state.nodes[name])) {
    const container = state.containers[containerId];
    if (container?.originNode === name) delete container.originNode;
  }
};

export interface Evacuated {
  /** As the evacuation left them. */
  readonly waiting: readonly Container[];
  /** What others have decided about since: removed, or moved. */
  readonly leftAlone: readonly LeftAlone[];
}

/** What a return of the node is about, in the order in which it left. */
export const evacuatedFrom = ({ state }: Cluster, name: string): Evacuated => {
  const waiting: Container[] = [];
  const leftAlone: LeftAlone[] = [];
  for (const { containerId, containerName, epoch } of evacueesOf(state.nodes[name])) {
    const container = state.containers[containerId];
    const alone = (reason: string): void => void leftAlone.push({ containerName, reason });
    if (container === undefined || container.removing) alone("was removed since");
    else if (container.allocation?.epoch !== epoch)
      alone(`was moved since: it is on ${container.allocation?.node ?? "no node"}`);
    else waiting.push(container);
  }
  return { waiting, leftAlone };
};

/** A return is over: what others have decided about is no evacuee any more. */
export const settleEvacuees = (cluster: Cluster, node: Node, name: string): LeftAlone[] => {
  const { waiting, leftAlone } = evacuatedFrom(cluster, name);
  const ids = new Set(waiting.map(({ id }) => id));
  for (const { containerId } of evacueesOf(node)) {
    const container = cluster.state.containers[containerId];
    if (!ids.has(containerId) && container?.originNode === name) delete container.originNode;
  }
  setEvacuees(
    node,
    evacueesOf(node).filter(({ containerId }) => ids.has(containerId)),
  );
  return [...leftAlone];
};
