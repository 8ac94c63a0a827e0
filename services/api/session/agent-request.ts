/** Requests to a node's agent over core NATS. */
import { NoRespondersError, RequestError, TimeoutError, type NatsConnection } from "@nats-io/transport-node";
import { GodwitError } from "../../../proto/contract/error.ts";

const TIMEOUT_MS = 10_000;

export async function askAgent(
  connection: NatsConnection,
  subject: string,
  node: string,
  payload: Uint8Array,
): Promise<Uint8Array> {
  try {
    const answer = await connection.request(subject, payload, { timeout: TIMEOUT_MS });
    return answer.data;
  } catch (error) {
    const nobody =
      error instanceof NoRespondersError || (error instanceof RequestError && error.isNoResponders());
    const why = nobody
      ? "is not connected"
      : error instanceof TimeoutError
        ? `did not answer within ${TIMEOUT_MS / 1000} s`
        : `cannot be reached (${error instanceof Error ? error.message : String(error)})`;
    throw new GodwitError("unavailable", `the agent of ${node} ${why}; try again, or see 'godwit node ls'`, {
      cause: error,
    });
  }
}
