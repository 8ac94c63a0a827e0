/** What a container asks of a node, worked out once and then held against any number of nodes. Pure. */
import type { Container, Node, NodeInfo } from "../../../proto/gen/godwit/v1/log.ts";
import {
  MigrationMode,
  type Constraint,
  type PublishedPort,
  type Resources,
} from "../../../proto/gen/godwit/v1/spec.ts";
import { labelText, matchText } from "../../model/labels.ts";
import { imageOf } from "../apply-image.ts";
import { limitsOf, type Cluster, type NodeUse } from "../cluster.ts";
import type { LabelCounts } from "../placement-index.ts";
import { spreadDemandsOf, type SpreadDemand } from "./spread-demand.ts";

/** A label, and where containers are that have it (or that want nothing to do with it). */
export interface LabelRule {
  readonly label: string;
  readonly nodes: LabelCounts | undefined;
}

export interface Demand {
  readonly container: Container;
  readonly limits: Resources;
  readonly constraints: readonly Constraint[];
  /** As OCI names it; empty: any. */
  readonly arch: string;
  readonly ports: readonly PublishedPort[];
  readonly portsOf: (node: string) => ReadonlyMap<number, string> | undefined;
  /** Of others that it must not be beside. */
  readonly apart: readonly LabelRule[];
  /** Of its own, that others must not be beside. */
  readonly shunned: readonly LabelRule[];
  /** Of others that it must be beside. */
  readonly beside: readonly LabelRule[];
  /** Where it runs: it has to go on with what that has. */
  readonly source: NodeInfo | undefined;
  /** It is started anew, so only what cannot run its program at all is in the way. */
  readonly isCold: boolean;
  /** Of its service: how far its containers may be from lying evenly. */
  readonly spread: readonly SpreadDemand[];
  /** What it uses of its kernel. */
  readonly needs: readonly string[];
}

/** A node as it would be found: what is promised, and what was planned since the state. */
export interface Spot {
  readonly name: string;
  readonly node: Node;
  readonly use: Readonly<NodeUse>;
  /** Containers with rules or labels that are to go there, and that no index knows of yet. */
  readonly planned: readonly Container[];
}

export interface DemandContext {
  readonly needs?: readonly string[];
  /** Of the move that it is asked for. */
  readonly mode?: MigrationMode;
  /** Everything that is planned and has labels. */
  readonly planned?: readonly Container[];
}

export const NO_CONTAINERS: readonly Container[] = [];

export const hasLabel = ({ spec }: Container, label: string): boolean => {
  for (const key in spec?.labels) if (labelText(key, spec.labels[key] ?? "") === label) return true;
  return false;
};
export const repels = ({ spec }: Container, label: string): boolean =>
  spec?.antiAffinity.some((match) => matchText(match) === label) === true;

/** Nobody else has it, so the first of those that want to be together may choose. */
const isFirst = (
  cluster: Cluster,
  container: Container,
  nodes: LabelCounts | undefined,
  label: string,
  planned: readonly Container[],
): boolean => {
  if (!hasLabel(container, label) || planned.some((other) => hasLabel(other, label))) return false;
  if (nodes === undefined) return true;
  let own = 0;
  if (cluster.state.containers[container.id] === container) {
    if (container.allocation !== undefined) own += 1;
    if (container.migrationId !== "") own += 1;
  }
  let all = 0;
  for (const here of nodes.values()) {
    all += here;
    if (all > own) return false;
  }
  return true;
};

export const demandOf = (cluster: Cluster, container: Container, context: DemandContext = {}): Demand => {
  const { spec } = container;
  const { labelled, ports, repelling } = cluster.index.placement;
  const { mode, needs = [], planned = NO_CONTAINERS } = context;
  const beside: LabelRule[] = [];
  for (const match of spec?.affinity ?? []) {
    const label = matchText(match);
    const nodes = labelled.get(label);
    if (!isFirst(cluster, container, nodes, label, planned)) beside.push({ label, nodes });
  }
  const shunned: LabelRule[] = [];
  if (repelling.size > 0)
    for (const key in spec?.labels) {
      const label = labelText(key, spec.labels[key] ?? "");
      const nodes = repelling.get(label);
      if (nodes !== undefined) shunned.push({ label, nodes });
    }
  return {
    container,
    limits: limitsOf(container),
    constraints: spec?.constraints ?? [],
    arch: spec === undefined ? "" : (imageOf(cluster, spec)?.arch ?? ""),
    ports: spec?.ports ?? [],
    portsOf: (node) => ports.get(node),
    apart: (spec?.antiAffinity ?? []).map((match) => {
      const label = matchText(match);
      return { label, nodes: labelled.get(label) };
    }),
    shunned,
    beside,
    // One that is placed anew begins anew.
    source: cluster.index.unplaced.has(container.id)
      ? undefined
      : cluster.state.nodes[container.allocation?.node ?? ""]?.info,
    isCold: mode === MigrationMode.COLD,
    spread: spreadDemandsOf(cluster, container),
    needs,
  };
};
