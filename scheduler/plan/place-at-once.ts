/**
 * Nodes for containers that are about to be created, so that one entry of the log creates and places them: whoever asked
 * for one waits for one append, and not for a round of the planners too. Pure.
 */
import { Container, DesiredState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { nextEpoch, type Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import { optionsFor } from "./place.ts";
import { placeOne, PlannedUse } from "./placement.ts";
import type { Volatile } from "./volatile.ts";

const NEW = Container.fromPartial({ desired: DesiredState.RUNNING });

/**
 * What to append to `commands`, which are about to be applied to the cluster as it is. Empty where that is for the
 * planners' next round to say: while others wait for a node, which may be older or more important, and for a container
 * that no node has room for. A placement that turns out not to fit when it is applied is rejected then, as any other.
 */
export const placeAtOnce = (
  cluster: Cluster,
  seen: Pick<Volatile, "nodes" | "order">,
  commands: readonly Command[],
): Command[] => {
  const { containers } = cluster.state;
  const created: Container[] = [];
  const placed = new Map<string, string>();
  for (const { command: one } of commands)
    if (one?.$case === "containerCreated") {
      const { id, spec } = one.value;
      if (spec !== undefined && containers[id] === undefined) created.push({ ...NEW, id, spec });
    } else if (one?.$case === "allocationPlaced") placed.set(one.value.containerId, one.value.node);
  if (created.length === 0) return [];
  for (const id of cluster.index.unplaced) if (!placed.has(id)) return [];
  const planned = new PlannedUse(cluster);
  for (const [id, node] of placed) {
    const container = containers[id];
    if (container !== undefined) planned.add(node, container);
  }
  // Of those that are created together the more important ones come first, as in a round.
  created.sort((a, b) => (b.spec?.priority ?? 0) - (a.spec?.priority ?? 0));
  return created.flatMap((container) => {
    const node = placeOne(cluster, container, optionsFor(container, { planned, seen }));
    if (node === undefined) return [];
    planned.add(node, container);
    return command("allocationPlaced", { containerId: container.id, node, epoch: nextEpoch(container) });
  });
};
