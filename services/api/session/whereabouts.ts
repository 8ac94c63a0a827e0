/** Where a container is, and whether it still is where a session found it. */
import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { waitFor } from "../follow.ts";
import { containerState, type ContainerRecord } from "../view/container.ts";

export interface Place {
  readonly node: string;
  readonly epoch: number;
  /** Of the agent; a new one knows nothing of the old one's sessions. */
  readonly incarnation: string;
}

const nameOf = (container: ContainerRecord): string => container.spec?.name ?? container.id;

function recordOf(scheduler: Scheduler, id: string): ContainerRecord | undefined {
  const { containers } = scheduler.state();
  return Object.hasOwn(containers, id) ? containers[id] : undefined;
}

/** The node that owns the container, whatever its state. Undefined while it has none. */
export function placeOf(scheduler: Scheduler, id: string): Place | undefined {
  const allocation = recordOf(scheduler, id)?.allocation;
  if (allocation === undefined) return undefined;
  const node = scheduler.state().nodes[allocation.node];
  return { node: allocation.node, epoch: allocation.epoch, incarnation: node?.incarnation ?? "" };
}

export const isMigrating = (scheduler: Scheduler, id: string): boolean =>
  (recordOf(scheduler, id)?.migrationId ?? "") !== "";

const isNodeLost = (scheduler: Scheduler, node: string): boolean =>
  scheduler.state().nodes[node]?.state === NodeState.LOST;

/** Waits for a container on its way (moving, starting) to run; refuses one that will not by itself. */
export async function runningPlace(
  scheduler: Scheduler,
  id: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Place> {
  let seen = "";
  let name = id;
  return waitFor(
    scheduler,
    signal,
    timeoutMs,
    () =>
      `the container ${name} is still ${seen} after ${timeoutMs / 1000} s; try again when 'godwit ps' shows it running`,
    () => {
      const container = recordOf(scheduler, id);
      if (container === undefined) throw new GodwitError("not-found", `the container ${name} was removed`);
      name = nameOf(container);
      const node = container.allocation?.node;
      seen = containerState(container, node !== undefined && isNodeLost(scheduler, node));
      switch (seen) {
        case "running":
          return placeOf(scheduler, id);
        case "migrating":
        case "starting":
        case "pending":
        case "frozen":
          return undefined;
        case "lost":
          throw new GodwitError(
            "unavailable",
            `the container ${name} is on ${node ?? "a node"}, which is lost`,
          );
        default:
          throw new GodwitError(
            "refused",
            `the container ${name} is ${seen}; start it first ('godwit start ${name}')`,
          );
      }
    },
  );
}

/**
 * Why a session at `place` cannot go on, or undefined when nothing is known against it. `what` ends the advice: "run
 * the command again".
 */
export function lossOf(
  scheduler: Scheduler,
  id: string,
  place: Place,
  advice: string,
): GodwitError | undefined {
  const now = placeOf(scheduler, id);
  const container = recordOf(scheduler, id);
  if (container === undefined || now === undefined)
    return new GodwitError("unavailable", "the container was removed during the session");
  if (now.node !== place.node)
    return new GodwitError("unavailable", `the container moved to ${now.node} during the session; ${advice}`);
  if (isNodeLost(scheduler, place.node))
    return new GodwitError(
      "unavailable",
      `the node ${place.node} was lost during the session; ${advice} when it is back`,
    );
  if (now.incarnation !== place.incarnation) {
    return new GodwitError(
      "unavailable",
      `the agent of ${place.node} was started anew during the session; ${advice}`,
    );
  }
  return undefined;
}
