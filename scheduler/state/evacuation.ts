/** Where containers that were evacuated belong: kept at the node that they left, and named by the container. Pure. */
import type { Container, Evacuee, LeftAlone, Migration, Node } from "../../proto/gen/godwit/v1/log.ts";
import { nameOf, type Cluster } from "./cluster.ts";

const evacueesOf = (node: Node | undefined): readonly Evacuee[] => node?.evacuees?.list ?? [];

const setEvacuees = (node: Node, list: Evacuee[]): void => {
  if (list.length > 0) node.evacuees = { list };
  else delete node.evacuees;
};

/** As moves that somebody has ordered one by one say why they are made. */
const BY_OPERATOR = "operator";

const originsOf = (container: Container): readonly string[] => container.origins?.nodes ?? [];

const setOrigins = (container: Container, nodes: string[]): void => {
  if (nodes.length > 0) container.origins = { nodes };
  else container.origins = undefined;
};

const dropEvacuee = ({ state }: Cluster, origin: string, { id }: Container): void => {
  const node = state.nodes[origin];
  if (node !== undefined)
    setEvacuees(
      node,
      evacueesOf(node).filter(({ containerId }) => containerId !== id),
    );
};

const isEvacuation = ({ state }: Cluster, { drainId, from }: Migration): boolean => {
  const drain = state.nodes[from]?.drain;
  return drain?.evacuate === true && drainId !== "" && drain.id === drainId;
};

/**
 * Ownership of the container has moved by this migration, and its allocation says where to. One that is evacuated again
 * while it is away belongs to both nodes: it may go back to the second, and from there to the first.
 */
export const followOrigin = (cluster: Cluster, container: Container, migration: Migration): void => {
  const { node = "", epoch = 0 } = container.allocation ?? {};
  const origins = originsOf(container);
  // At home: where it was evacuated from since, it was a guest.
  const home = origins.includes(node) ? origins.indexOf(node) : origins.length;
  for (const origin of origins.slice(home)) dropEvacuee(cluster, origin, container);
  const away = origins.slice(0, home);
  // Whatever moves it by itself knows nothing of where it belongs; what an operator has moved is left alone.
  if (migration.reason !== BY_OPERATOR)
    for (const origin of away)
      for (const evacuee of evacueesOf(cluster.state.nodes[origin]))
        if (evacuee.containerId === container.id && evacuee.epoch === epoch - 1) evacuee.epoch = epoch;
  const from = cluster.state.nodes[migration.from];
  if (from !== undefined && node !== migration.from && isEvacuation(cluster, migration)) {
    dropEvacuee(cluster, migration.from, container);
    setEvacuees(from, [
      ...evacueesOf(from),
      { containerId: container.id, containerName: nameOf(container), epoch },
    ]);
    setOrigins(container, [...away.filter((origin) => origin !== migration.from), migration.from]);
  } else setOrigins(container, [...away]);
};

const forgetOrigin = (container: Container | undefined, name: string): void => {
  if (container !== undefined)
    setOrigins(
      container,
      originsOf(container).filter((origin) => origin !== name),
    );
};

/** The node is forgotten, and with it that anything belongs there. */
export const forgetEvacuees = ({ state }: Cluster, name: string): void => {
  for (const { containerId } of evacueesOf(state.nodes[name]))
    forgetOrigin(state.containers[containerId], name);
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
  for (const { containerId } of evacueesOf(node))
    if (!ids.has(containerId)) forgetOrigin(cluster.state.containers[containerId], name);
  setEvacuees(
    node,
    evacueesOf(node).filter(({ containerId }) => ids.has(containerId)),
  );
  return [...leftAlone];
};
