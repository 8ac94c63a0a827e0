import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import type { Host } from "../host.ts";
import type { StreamEnds } from "../stream/handshake.ts";

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
