import { Empty, type NatsConnection, NoRespondersError, RequestError } from "@nats-io/transport-node";

import { GodwitError } from "../../proto/contract/error.ts";

/** Where sessions may send to: output to anywhere would let a client give orders in the agent's name. */
const OUTPUT_SUBJECT = /^(godwit\.session|_INBOX)(\.[A-Za-z0-9_-]+)+$/;

export function checkOutputSubject(subject: string): void {
  if (!OUTPUT_SUBJECT.test(subject)) {
    throw new GodwitError("invalid", `'${subject}' is no subject for a session's output`);
  }
}

const ANSWER_WITHIN_MS = 2_000;

/**
 * Whether anybody is subscribed to a session's output. Asked with an empty message, which reads as a frame or
 * chunk of nothing (sequence 0, no data) and which listeners pass over; they need not answer.
 */
export async function hasListener(connection: NatsConnection, subject: string): Promise<boolean> {
  try {
    await connection.request(subject, Empty, { timeout: ANSWER_WITHIN_MS });
    return true;
  } catch (error) {
    // Any other failure, a time-out above all, does not say that nobody listens.
    return !(error instanceof NoRespondersError || (error instanceof RequestError && error.isNoResponders()));
  }
}
