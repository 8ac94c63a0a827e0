/**
 * Requests of clients that have taken effect. A client whose answer was lost sends its request again under the same
 * id, maybe to another scheduler, and must not have it done twice.
 */
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "./cluster.ts";

/** A client repeats within a minute; of these there are never so many in a minute, whatever else there is. */
export const KEPT_REQUESTS = 10_000;

export const rememberRequest = ({ index, state }: Cluster, id: string): void => {
  if (index.requests.has(id)) return;
  index.requests.add(id);
  state.recentRequests.push(id);
  if (state.recentRequests.length <= KEPT_REQUESTS) return;
  const oldest = state.recentRequests.shift();
  if (oldest !== undefined) index.requests.delete(oldest);
};

/**
 * A container has the id of the request that created it and is told by that, since there may be very many of these
 * requests; once it was removed, its id is among the requests.
 */
export const isRepeated = ({ index, state }: Cluster, { command, requestId = "" }: Command): boolean => {
  if (requestId === "") return false;
  if (index.requests.has(requestId)) return true;
  if (command?.$case !== "containerCreated" || command.value.id !== requestId) return false;
  return state.containers[requestId]?.spec?.name === command.value.spec?.name;
};

/** After a command has taken effect. */
export const noteRequest = (cluster: Cluster, { command, requestId = "" }: Command): void => {
  if (command?.$case === "containerRemoved") rememberRequest(cluster, command.value.id);
  else if (requestId !== "" && command?.$case !== "containerCreated") rememberRequest(cluster, requestId);
};
