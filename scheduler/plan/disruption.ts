/**
 * Disruption budgets: whether somebody who wants to stop, restart or coldly move a container may do so now. Pure.
 * A live move disrupts nobody and need not ask; what happens by itself (a crash, a lost node) asks nobody, but counts.
 */
import type { Container } from "../../proto/gen/godwit/v1/log.ts";
import { budgetOf } from "../model/service-policy.ts";
import { isAvailable } from "../state/availability.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { reject, type Outcome } from "../state/rejection.ts";

/**
 * What is planned in one round and not in the log yet. Made anew for each round, and shared by all planners of it: what
 * it has counted of a service is kept.
 */
export class PlannedDisruptions {
  readonly #cluster: Cluster;
  readonly #available = new Map<string, Set<string>>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** Ids of the service's containers that are available and not about to be disrupted. */
  availableOf(service: string): ReadonlySet<string> {
    let available = this.#available.get(service);
    if (available === undefined) {
      const { index, state } = this.#cluster;
      const isCounted = (id: string): boolean => {
        const container = state.containers[id];
        return container !== undefined && isAvailable(this.#cluster, container);
      };
      available = new Set([...(index.ofService.get(service) ?? [])].filter(isCounted));
      this.#available.set(service, available);
    }
    return available;
  }

  /** The container is stopped, restarted or coldly moved in this round. */
  add({ id, service }: Container): void {
    if (service === "") return;
    this.availableOf(service);
    this.#available.get(service)?.delete(id);
  }
}

/** How many more available containers of the service may be disrupted now. */
export const disruptionsAllowed = (
  { state }: Cluster,
  planned: PlannedDisruptions,
  service: string,
): number => {
  const { removing, spec } = state.services[service] ?? {};
  if (spec === undefined || removing === true) return Infinity;
  const needed = Math.max(0, spec.replicas - budgetOf(spec));
  return Math.max(0, planned.availableOf(service).size - needed);
};

/**
 * Undefined: the container may be disrupted now; who does it, says so with `planned.add`. Otherwise why not, which
 * passes when others of its service are available again.
 *
 * One that does no work anyway may always be disrupted: to hold it back would help nobody.
 */
export const disruptionCheck = (
  cluster: Cluster,
  planned: PlannedDisruptions,
  container: Container,
): Outcome => {
  const { service } = container;
  const spec = cluster.state.services[service]?.spec;
  if (spec === undefined || !planned.availableOf(service).has(container.id)) return undefined;
  if (disruptionsAllowed(cluster, planned, service) > 0) return undefined;
  return reject(
    "refused",
    `${nameOf(container)} has to stay for now: ${planned.availableOf(service).size} of ${spec.replicas} containers of its service ${service} are available, and at most ${budgetOf(spec)} may be missing`,
  );
};
