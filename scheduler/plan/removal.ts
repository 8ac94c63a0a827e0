import { MigrationState, NodeState, type Command, type Container } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "../state/cluster.ts";
import { command } from "./command.ts";
import { observedOn, type Volatile } from "./volatile.ts";

/** Every node that may hold a copy: the owner, and the source of a migration that has been switched. */
const holders = (cluster: Cluster, container: Container): string[] => {
  const migration = cluster.state.migrations[container.migrationId];
  const owner = container.allocation?.node;
  return [
    ...(owner === undefined ? [] : [owner]),
    ...(migration?.state === MigrationState.SWITCHED ? [migration.from] : []),
  ];
};

/**
 * A container is forgotten once nobody holds it any more. The report that shows this must have been made after the
 * node took in a Desired without the container, or it would only show that it had not been started yet.
 */
const isGone = (cluster: Cluster, volatile: Volatile, container: Container, name: string): boolean => {
  const node = cluster.state.nodes[name];
  if (node === undefined) return true;
  if (node.state === NodeState.LOST) return container.removeForce;
  const seen = volatile.nodes.get(name);
  return seen?.current === true && observedOn(seen, container.id) === undefined;
};

export const planRemovals = (cluster: Cluster, volatile: Volatile): Command[] =>
  [...cluster.index.removing].flatMap((id) => {
    const container = cluster.state.containers[id];
    if (container === undefined) return [];
    return holders(cluster, container).every((name) => isGone(cluster, volatile, container, name))
      ? command("containerRemoved", { id })
      : [];
  });
