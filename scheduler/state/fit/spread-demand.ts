/** How a service's containers lie over nodes, or over the values of a node label. Pure. */
import { MigrationState, NodeState, type Container, type Node } from "../../../proto/gen/godwit/v1/log.ts";
import type { SpreadRule } from "../../../proto/gen/godwit/v1/service.ts";
import { attributeOf, satisfies } from "../../model/labels.ts";
import type { Cluster } from "../cluster.ts";

/** A rule of which it is known how far it may be stretched. */
export interface SpreadDemand {
  readonly label: string;
  readonly maxSkew: number;
  readonly counts: ReadonlyMap<string, number>;
  /** Of the place that takes containers and has the fewest. */
  readonly least: number;
}

/** The node itself, or what it has for the label; undefined: it has not. */
export const placeOf = (name: string, node: Node | undefined, label: string): string | undefined =>
  label === "" ? name : node === undefined ? undefined : attributeOf(name, node, label);

/** Where a container of a service is, or is about to be. */
const nodeOf = ({ state }: Cluster, { allocation, migrationId }: Container): string | undefined => {
  const migration = state.migrations[migrationId];
  return migration?.state === MigrationState.RUNNING ? migration.to : allocation?.node;
};

/** The others of its service and revision, by place: those of another revision are about to be replaced. */
export const countByPlace = (cluster: Cluster, container: Container, label: string): Map<string, number> => {
  const counts = new Map<string, number>();
  for (const id of cluster.index.ofService.get(container.service) ?? []) {
    const other = cluster.state.containers[id];
    if (other === undefined || id === container.id || other.removing || other.retiring) continue;
    if (other.serviceRevision !== container.serviceRevision) continue;
    const name = nodeOf(cluster, other);
    const place = name === undefined ? undefined : placeOf(name, cluster.state.nodes[name], label);
    if (place !== undefined) counts.set(place, (counts.get(place) ?? 0) + 1);
  }
  return counts;
};

export const spreadRulesOf = (cluster: Cluster, { service }: Container): readonly SpreadRule[] =>
  service === "" ? [] : (cluster.state.services[service]?.spec?.spread ?? []);

const fewest = (
  { state }: Cluster,
  { spec }: Container,
  label: string,
  counts: ReadonlyMap<string, number>,
): number => {
  let least = Infinity;
  for (const [name, node] of Object.entries(state.nodes)) {
    if (node.state !== NodeState.READY || !node.schedulable) continue;
    if (spec?.constraints.every((constraint) => satisfies(name, node, constraint)) === false) continue;
    const place = placeOf(name, node, label);
    if (place !== undefined) least = Math.min(least, counts.get(place) ?? 0);
  }
  return least === Infinity ? 0 : least;
};

/** Its rules that are more than wishes. */
export const spreadDemandsOf = (cluster: Cluster, container: Container): SpreadDemand[] =>
  spreadRulesOf(cluster, container)
    .filter(({ maxSkew }) => maxSkew > 0)
    .map(({ label, maxSkew }) => {
      const counts = countByPlace(cluster, container, label);
      return { label, maxSkew, counts, least: fewest(cluster, container, label, counts) };
    });
