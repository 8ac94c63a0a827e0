import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { followingPagesStream, heldPagesStream, wantedPagesStream } from "../../proto/contract/subjects.ts";
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

/** The silence after which a session of a post-copy is given up for a new one. */
export const SESSION_IDLE_MS = 10_000;

/** The two streams of a session: pages to the target, and the target's wishes, in whose stream it is the source. */
export function sessionEnds(
  host: Host,
  role: StreamEnds["role"],
  order: MigrationOrder,
  session: number,
): { readonly pages: StreamEnds; readonly wanted: StreamEnds } {
  const ends = streamEnds(host, role, order);
  return {
    pages: { ...ends, migration: followingPagesStream(order.id, session) },
    wanted: {
      ...ends,
      role: role === "source" ? "target" : "source",
      migration: wantedPagesStream(order.id, session),
    },
  };
}
