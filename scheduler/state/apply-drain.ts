/** Commands of drains, evacuations and returns. */
import type { DrainEnded, DrainStarted, ReturnEnded, ReturnStarted } from "../../proto/gen/godwit/v1/log.ts";
import { abortMigrationOf } from "./apply-migration.ts";
import type { Cluster } from "./cluster.ts";
import { settleEvacuees } from "./evacuation.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

/** Why a move to a node that begins to be drained is called off. */
export const turnedBack = (node: string): string => `node ${node} is being drained`;

const missing = (node: string): Outcome => reject("not-found", `there is no node ${node}`);

export const drainStarted = (cluster: Cluster, started: DrainStarted, { atMs }: ApplyContext): Outcome => {
  const node = cluster.state.nodes[started.node];
  if (node === undefined) return missing(started.node);
  if (started.drainId === "") return reject("invalid", "a drain without an id");
  if (node.drain?.outcome === "") return reject("refused", `node ${started.node} is being drained already`);
  if (node.return?.outcome === "")
    return reject(
      "refused",
      `node ${started.node} is getting its containers back: "godwit node return --cancel ${started.node}" ends that`,
    );
  node.schedulable = false;
  cluster.altered.add(started.node);
  node.drain = {
    id: started.drainId,
    deadlineMs: started.deadlineMs,
    parallel: Math.max(1, started.parallel),
    force: started.force,
    startedAtMs: atMs,
    outcome: "",
    endedAtMs: 0,
    ...(started.plan === undefined ? {} : { plan: started.plan }),
    ...(started.perLink === undefined ? {} : { perLink: started.perLink }),
    ...(started.evacuate === undefined ? {} : { evacuate: started.evacuate }),
  };
  cluster.index.draining.add(started.node);
  // What is on its way here would only be moved on. What has been switched is here already.
  for (const id of [...(cluster.index.arriving.get(started.node) ?? [])])
    abortMigrationOf(cluster, id, turnedBack(started.node), atMs);
  return undefined;
};

/** In whatever way. Moves that are under way go on. */
export const endDrain = (cluster: Cluster, name: string, outcome: string, atMs: number): void => {
  const drain = cluster.state.nodes[name]?.drain;
  if (drain === undefined) return;
  drain.outcome = outcome;
  drain.endedAtMs = atMs;
  delete drain.plan;
  cluster.index.draining.delete(name);
};

export const drainEnded = (cluster: Cluster, ended: DrainEnded, { atMs }: ApplyContext): Outcome => {
  const drain = cluster.state.nodes[ended.node]?.drain;
  if (drain?.id !== ended.drainId || drain.outcome !== "")
    return reject("refused", `node ${ended.node} is not being drained (any more)`);
  if (ended.outcome === "") return reject("invalid", "a drain cannot end without an outcome");
  endDrain(cluster, ended.node, ended.outcome, atMs);
  return undefined;
};

export const returnStarted = (cluster: Cluster, started: ReturnStarted, { atMs }: ApplyContext): Outcome => {
  const node = cluster.state.nodes[started.node];
  if (node === undefined) return missing(started.node);
  if (started.returnId === "") return reject("invalid", "a return without an id");
  if (node.drain?.outcome === "")
    return reject(
      "refused",
      `node ${started.node} is being drained: wait for its end, or "godwit node drain --cancel ${started.node}"`,
    );
  if (node.return?.outcome === "")
    return reject("refused", `node ${started.node} is getting its containers back already`);
  node.schedulable = true;
  cluster.altered.add(started.node);
  node.return = {
    id: started.returnId,
    parallel: Math.max(1, started.parallel),
    perLink: started.perLink,
    startedAtMs: atMs,
    outcome: "",
    endedAtMs: 0,
    leftAlone: [],
  };
  cluster.index.returning.add(started.node);
  return undefined;
};

export const returnEnded = (cluster: Cluster, ended: ReturnEnded, { atMs }: ApplyContext): Outcome => {
  const node = cluster.state.nodes[ended.node];
  const running = node?.return;
  if (node === undefined || running?.id !== ended.returnId || running.outcome !== "")
    return reject("refused", `node ${ended.node} is not getting its containers back (any more)`);
  if (ended.outcome === "") return reject("invalid", "a return cannot end without an outcome");
  // Whoever calls a return off may begin it again.
  const leftAlone = ended.outcome === "cancelled" ? [] : settleEvacuees(cluster, node, ended.node);
  Object.assign(running, { outcome: ended.outcome, endedAtMs: atMs, leftAlone });
  cluster.index.returning.delete(ended.node);
  return undefined;
};
