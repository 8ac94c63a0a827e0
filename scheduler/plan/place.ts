/** Nodes for containers that have none. Each is asked of all nodes once, and again only of those that have changed. */
import { AllocationState, type Command, type Container } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { nextEpoch, type Cluster } from "../state/cluster.ts";
import { priorityOf } from "../state/placement-index.ts";
import { placeWithCheckpoint } from "./checkpoints.ts";
import { command } from "./command.ts";
import { explainFailure, placeOne, type PlacementOptions, type PlannedUse } from "./placement.ts";
import { pinOf, TELL_AGAIN_MS, TOLD_AGAIN, type Kind, type WaitingRoom } from "./placement/waiting-room.ts";
import { roomIsMadeFor } from "./preempt.ts";
import type { Volatile } from "./volatile.ts";

export const optionsFor = (
  container: Container,
  common: Pick<PlacementOptions, "planned" | "seen" | "among">,
): PlacementOptions => {
  const only = pinOf(container);
  return only === undefined ? common : { ...common, only };
};

const pending = (containerId: string, message: string): Command =>
  command("allocationObserved", {
    containerId,
    node: "",
    epoch: 0,
    state: AllocationState.PENDING,
    exitCode: 0,
    restarts: 0,
    message,
    health: HealthState.UNSPECIFIED,
  });

const MAX_REASON = 1_024;
const reasonOf = ({ preemption }: Container, failure: string): string =>
  (preemption?.endedAtMs === 0
    ? `stopped on ${preemption.node} to make room for ${preemption.forName} (priority ${preemption.forPriority}); ${failure}`
    : failure
  ).slice(0, MAX_REASON);

/** First the more important, then the older. */
const inOrder = (a: Container, b: Container): number =>
  priorityOf(b) - priorityOf(a) || a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1);

interface Job {
  readonly priority: number;
  readonly run: () => void;
}

export interface PlacementPlanning {
  /** What is placed is entered here. */
  readonly planned: PlannedUse;
  readonly room: WaitingRoom;
  readonly nowMs: number;
}

class PlacementRound {
  readonly commands: Command[] = [];
  readonly #planned: PlannedUse;
  readonly #cluster: Cluster;
  readonly #seen: Pick<Volatile, "nodes" | "order">;
  readonly #room: WaitingRoom;
  readonly #nowMs: number;

  constructor(cluster: Cluster, seen: Pick<Volatile, "nodes" | "order">, planning: PlacementPlanning) {
    this.#cluster = cluster;
    this.#seen = seen;
    this.#room = planning.room;
    this.#nowMs = planning.nowMs;
    this.#planned = planning.planned;
  }

  #container(id: string): Container | undefined {
    const container = this.#cluster.index.unplaced.has(id) ? this.#cluster.state.containers[id] : undefined;
    // One that was being moved seeks again when that has ended.
    return container?.migrationId === "" ? container : undefined;
  }

  run(): void {
    const { fresh, freed, gained } = this.#room.takeNews(this.#cluster);
    const jobs: Job[] = [];
    // Those that wait come before the new ones of their priority.
    if (freed.size > 0 || gained.size > 0)
      for (const kind of this.#room.kinds) {
        const among = kind.hasAffinity ? undefined : freed;
        if (among?.size === 0) continue;
        kind.stale = true;
        jobs.push({ priority: kind.priority, run: () => this.#retry(kind, among) });
      }
    this.#reserve(jobs);
    const containers = fresh.flatMap((id) => this.#container(id) ?? []).sort(inOrder);
    for (const container of containers)
      jobs.push({ priority: priorityOf(container), run: () => this.#try(container) });
    jobs.sort((a, b) => b.priority - a.priority);
    for (const job of jobs) job.run();
    for (const kind of this.#room.kinds) this.#tell(kind);
  }

  /** Where others make room for a container, nobody of less importance may take that meanwhile. */
  #reserve(jobs: Job[]): void {
    const awaited = roomIsMadeFor(this.#cluster);
    for (const id of awaited) {
      const container = this.#container(id);
      if (container !== undefined)
        jobs.push({
          priority: priorityOf(container),
          run: () => {
            if (!this.#room.planned.has(id)) this.#planned.add(container.nominatedNode, container);
          },
        });
    }
  }

  #try(container: Container): void {
    // What one of a kind does not get in a round, no other one gets in it.
    if (this.#room.waitingLike(container) === undefined && this.#place(container, undefined)) return;
    this.#room.wait(container);
  }

  #retry(kind: Kind, among: ReadonlySet<string> | undefined): void {
    for (const id of [...kind.waiting]) {
      const container = this.#container(id);
      if (container === undefined) this.#room.forget(id);
      else if (!this.#place(container, among)) return;
      else this.#room.forget(id);
    }
  }

  #place(container: Container, among: Iterable<string> | undefined): boolean {
    const common = { planned: this.#planned, seen: this.#seen };
    const options = optionsFor(container, among === undefined ? common : { ...common, among });
    const resumed = placeWithCheckpoint(this.#cluster, container, common);
    const node = resumed?.node ?? placeOne(this.#cluster, container, options);
    if (node === undefined) return false;
    this.#planned.add(node, container);
    this.#room.planned.set(container.id, node);
    const epoch = nextEpoch(container);
    this.commands.push(
      command("allocationPlaced", { containerId: container.id, epoch, ...(resumed ?? { node }) }),
    );
    return true;
  }

  /** Why they wait, of all that have not been told and now and then of some of the others. */
  #tell(kind: Kind): void {
    const again = kind.stale && this.#nowMs - kind.toldAtMs >= TELL_AGAIN_MS;
    if (kind.untold.size === 0 && !again) return;
    let failure: string | undefined;
    let told = 0;
    for (const id of again ? kind.waiting : kind.untold.keys()) {
      const container = this.#container(id);
      if (container === undefined) {
        this.#room.forget(id);
        continue;
      }
      const sent = kind.untold.get(id);
      if (sent !== undefined && sent !== "" && sent === container.placementFailure) {
        kind.untold.delete(id);
        if (!again) continue;
      } else if (sent === undefined && told >= TOLD_AGAIN) continue;
      told += 1;
      const options = optionsFor(container, { planned: this.#planned, seen: this.#seen });
      failure ??= explainFailure(this.#cluster, container, options);
      const message = reasonOf(container, failure);
      if (message === container.placementFailure) {
        kind.untold.delete(id);
        continue;
      }
      kind.untold.set(id, message);
      this.commands.push(pending(id, message));
    }
    if (told > 0) kind.toldAtMs = this.#nowMs;
    if (again) kind.stale = false;
  }
}

export const planPlacements = (
  cluster: Cluster,
  seen: Pick<Volatile, "nodes" | "order">,
  planning: PlacementPlanning,
): Command[] => {
  const round = new PlacementRound(cluster, seen, planning);
  round.run();
  return round.commands;
};
