import { NodeState, type Node } from "../../../proto/gen/godwit/v1/log.ts";
import type { Filter, Obstacle } from "./filter.ts";

const obstacleOf = (name: string, node: Node): Obstacle | undefined => {
  const refused = (message: string, words: string): Obstacle => ({
    code: "refused",
    message,
    one: words,
    many: words,
  });
  if (node.state === NodeState.LOST)
    return refused(`node ${name} is lost: ${node.stateReason || "it does not report"}`, "lost");
  if (node.schedulable) return undefined;
  return node.drain?.outcome === ""
    ? refused(`node ${name} is being drained`, "being drained")
    : refused(
        `node ${name} is cordoned: "godwit node uncordon ${name}" lets it take containers again`,
        "cordoned",
      );
};

/** Whether the node takes anything new at all. */
export const NODE_STATE: Filter = {
  kind: "node-state",
  concerns: () => true,
  blocks: (_, { node }) => node.state === NodeState.LOST || !node.schedulable,
  obstacles: (_, { name, node }) => {
    const obstacle = obstacleOf(name, node);
    return obstacle === undefined ? [] : [obstacle];
  },
};
