import type { StreamEnds } from "../handshake.ts";
import { generateIdentity } from "../identity.ts";

/** Both ends of a migration from n1 to n2, with new keys. */
export function pairOfEnds(migration: string): { source: StreamEnds; target: StreamEnds } {
  const [source, target] = [generateIdentity(), generateIdentity()];
  return {
    source: {
      role: "source",
      migration,
      node: "n1",
      identity: source,
      peerNode: "n2",
      peerKey: target.publicKey,
    },
    target: {
      role: "target",
      migration,
      node: "n2",
      identity: target,
      peerNode: "n1",
      peerKey: source.publicKey,
    },
  };
}
