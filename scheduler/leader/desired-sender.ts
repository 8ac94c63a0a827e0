import { desiredSubject } from "../../proto/contract/subjects.ts";
import { Desired, type Peer } from "../../proto/gen/godwit/v1/agent.ts";
import type { Link } from "../log/link.ts";
import { desiredFor, peersOf } from "../plan/desired.ts";
import type { Volatile } from "../plan/volatile.ts";
import type { Cluster } from "../state/cluster.ts";

interface Sent {
  readonly desired: Desired;
  /** Encoded without its revision and peers, to tell whether anything changed. */
  readonly content: Uint8Array;
  readonly peersVersion: number;
  readonly bytes: Uint8Array;
}

/** Every node's, made once for all of them: in a large cluster they are most of a Desired. */
interface Peers {
  readonly version: number;
  readonly list: Peer[];
  readonly bytes: Uint8Array;
}

const NOTHING = Desired.fromPartial({});

/** Room for changes of a Desired that come from reports alone, without a log entry between them. */
const REVISIONS_PER_ENTRY = 65_536;

/** A Desired must also fit the answer to a report. */
const ENVELOPE_BYTES = 1_024;

/** Keeps the latest Desired of every node that has reported. */
export class DesiredSender {
  /** Sizes of those that do not fit a NATS message, by node. */
  readonly oversized = new Map<string, number>();
  readonly #link: Pick<Link, "publish" | "maxPayloadBytes">;
  readonly #epoch: number;
  readonly #sent = new Map<string, Sent>();
  #peers: Peers | undefined;
  #revision = 0;

  constructor(link: Pick<Link, "publish" | "maxPayloadBytes">, epoch: number) {
    this.#link = link;
    this.#epoch = epoch;
  }

  revisionOf(node: string): number | undefined {
    return this.#sent.get(node)?.desired.revision;
  }
  desiredOf(node: string): Desired | undefined {
    return this.#sent.get(node)?.desired;
  }

  /** Computes the node's Desired anew; true when it changed. */
  refresh(cluster: Cluster, volatile: Volatile, node: string): boolean {
    const content = desiredFor(cluster, volatile, node);
    if (content === undefined) return this.#sent.delete(node);
    const encoded = Desired.encode({ ...NOTHING, ...content }).finish();
    const peers = this.#peersNow(cluster);
    const before = this.#sent.get(node);
    if (before?.peersVersion === peers.version && Buffer.compare(before.content, encoded) === 0) return false;
    // Rises within an epoch, and no later leader gives the same number to another content, since its log is longer.
    this.#revision = Math.max(this.#revision + 1, cluster.state.lastSequence * REVISIONS_PER_ENTRY);
    const place = { leaderEpoch: this.#epoch, revision: this.#revision };
    const desired: Desired = { ...place, ...content, peers: peers.list };
    // Encoded messages that are joined are the message with the fields of all of them.
    const bytes = Buffer.concat([Desired.encode({ ...NOTHING, ...place }).finish(), encoded, peers.bytes]);
    this.#sent.set(node, { desired, content: encoded, peersVersion: peers.version, bytes });
    if (bytes.length + ENVELOPE_BYTES > this.#link.maxPayloadBytes) this.oversized.set(node, bytes.length);
    else this.oversized.delete(node);
    return true;
  }

  #peersNow(cluster: Cluster): Peers {
    const { version } = cluster.peers;
    if (this.#peers?.version === version) return this.#peers;
    const list = peersOf(cluster);
    const bytes = Desired.encode({ ...NOTHING, peers: list }).finish();
    return (this.#peers = { version, list, bytes });
  }

  publish(node: string): void {
    const sent = this.#sent.get(node);
    if (sent !== undefined && !this.oversized.has(node)) this.#link.publish(desiredSubject(node), sent.bytes);
  }
}
