import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { heldPagesStream } from "../../proto/contract/subjects.ts";
import type { Host } from "../host.ts";
import type { StreamEnds } from "../stream/handshake.ts";

/** The leader aborts a migration that stands still earlier than this. */
export const STREAM_IDLE_MS = 300_000;

/** This host's end of a migration's stream, and who the order says that the other has to be. */
export function streamEnds(host: Host, role: StreamEnds["role"], order: MigrationOrder): StreamEnds {
  return {
    role,
    migration: order.id,
    node: host.config.node,
    identity: host.identity,
    peerNode: order.peerNode,
    peerKey: order.peerKey,
  };
}

/** The same of the stream in which the target says which pages it holds: there it is the source. */
export function offerEnds(host: Host, role: "source" | "target", order: MigrationOrder): StreamEnds {
  const ends = streamEnds(host, role === "source" ? "target" : "source", order);
  return { ...ends, migration: heldPagesStream(order.id) };
}
