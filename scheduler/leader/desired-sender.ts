import { hash } from "node:crypto";

import { ChangeBook, changedSince, settleAll } from "../../proto/contract/change-book.ts";
import { encoded, type EncodedPart } from "../../proto/contract/encoded.ts";
import { desiredSubject } from "../../proto/contract/subjects.ts";
import { Desired, DesiredAllocation, NetworkSettings } from "../../proto/gen/godwit/v1/agent.ts";
import { KeptCheckpoint } from "../../proto/gen/godwit/v1/checkpoint.ts";
import type { Link } from "../log/link.ts";
import { containersOf, desiredAllocation, keptCheckpoint, networkOf } from "../plan/desired.ts";
import type { Volatile } from "../plan/volatile.ts";
import type { Cluster } from "../state/cluster.ts";
import { PeerBook } from "./peer-book.ts";

/** Of one node: what it is to know, and since which revision. */
interface Orders {
  revision: number;
  /** Of the last message that was sent to it, which it has unless it was lost. */
  sent: number;
  /** The node's, which its network settings follow from; -1: it has not been told of them. */
  index: number;
  /** Up to here it has all with the answer to its last report; what was published since may be on its way to it. */
  answered: number;
  readonly books: {
    readonly allocations: ChangeBook;
    readonly checkpoints: ChangeBook;
    /** Settings that do not change as long as the node keeps its place among the nodes. */
    readonly own: ChangeBook;
  };
}

type Keys = Readonly<Record<keyof Orders["books"], readonly string[]>>;

interface Recipient {
  readonly cluster: Cluster;
  readonly volatile: Volatile;
  readonly node: string;
  readonly orders: Orders;
}

/** What an agent has said that it knows. */
export interface Known {
  readonly leaderEpoch: number;
  readonly revision: number;
}

const NOTHING = Desired.fromPartial({});
/** Room for changes of a Desired that come from reports alone, without a log entry between them. */
const REVISIONS_PER_ENTRY = 65_536;
/** What is beside the orders in the answer to a report, and the head of each part. */
const ENVELOPE_BYTES = 1_024;
/** Before each piece, at most: what field it is and how long. */
const TAG_BYTES = 8;
/** So many nodes hear of each other at once, and more with the answers to their next reports. */
const SMALL_CLUSTER = 128;
const NETWORK = "network";
/** Fields of Desired, with their wire type. */
const ALLOCATION_TAG = (3 << 3) | 2;
const NETWORK_TAG = (5 << 3) | 2;
const CHECKPOINT_TAG = (150 << 3) | 2;

/** 72 bits: of each allocation of the cluster one is kept. */
const printOf = (bytes: Uint8Array): string => hash("sha256", bytes, "base64url").slice(0, 12);

/** Keeps what every node that has reported is to know, and tells it what it does not know yet. */
export class DesiredSender {
  /** Sizes of those that cannot be sent, since a single piece of them does not fit a NATS message, by node. */
  readonly oversized = new Map<string, number>();
  readonly #link: Pick<Link, "publish" | "maxPayloadBytes">;
  readonly #epoch: number;
  readonly #orders = new Map<string, Orders>();
  #peers = new PeerBook();
  #revision = 0;
  #index: Cluster["index"] | undefined;
  /** What was encoded when a node's orders changed last: it is about to be sent. */
  #encoded:
    | {
        readonly orders: Orders;
        readonly revision: number;
        readonly byContainer: ReadonlyMap<string, Uint8Array>;
      }
    | undefined;
  /** Told of the containers whose orders may have changed. */
  readonly #onTouched: (node: string, containers: Iterable<string>) => void;

  constructor(
    link: Pick<Link, "publish" | "maxPayloadBytes">,
    epoch: number,
    onTouched: (node: string, containers: Iterable<string>) => void = () => undefined,
  ) {
    this.#link = link;
    this.#epoch = epoch;
    this.#onTouched = onTouched;
  }

  revisionOf(node: string): number | undefined {
    return this.#orders.get(node)?.revision;
  }
  /** What was computed last may not be what the node is to know now. */
  isBehind(cluster: Cluster, node: string): boolean {
    const orders = this.#orders.get(node);
    return (
      orders === undefined ||
      cluster.touched.has(node) ||
      this.#peers.isBehind(cluster) ||
      this.#peers.revision > orders.revision ||
      cluster.index !== this.#index
    );
  }
  /** Nodes that are to be told of changes of their peers before they report. */
  hurried(cluster: Cluster): string[] {
    if (this.#orders.size > SMALL_CLUSTER) return [];
    const isBehind = this.#peers.isBehind(cluster);
    return [...this.#orders].flatMap(([node, { revision }]) =>
      isBehind || revision < this.#peers.revision ? node : [],
    );
  }
  forget(node: string): void {
    this.#orders.delete(node);
    this.oversized.delete(node);
  }

  /** Computes anew what may have changed for the node; true when something has. */
  refresh(cluster: Cluster, volatile: Volatile, node: string): boolean {
    // Another state has been put in its place: what has changed meanwhile, nobody has marked.
    if (this.#index !== cluster.index) {
      this.#orders.clear();
      this.#peers = new PeerBook();
      this.#index = cluster.index;
    }
    const touched = cluster.touched.get(node);
    cluster.touched.delete(node);
    if (touched !== undefined) this.#onTouched(node, touched.containers);
    const member = cluster.state.nodes[node];
    if (member === undefined) {
      this.oversized.delete(node);
      return this.#orders.delete(node);
    }
    // Rises within an epoch, and no later leader gives the same number to another content, since its log is longer.
    const at = Math.max(this.#revision + 1, cluster.state.lastSequence * REVISIONS_PER_ENTRY);
    if (this.#peers.isBehind(cluster)) {
      this.#peers.update(cluster, at);
      this.#revision = at;
    }
    const before = this.#orders.get(node);
    const orders = before ?? begin(at);
    const containers = before === undefined ? containersOf(cluster, node) : (touched?.containers ?? []);
    const checkpoints =
      before === undefined ? (cluster.index.keeping.get(node) ?? []) : (touched?.checkpoints ?? []);
    const fresh = new Map<string, Uint8Array>();
    let isChanged = before === undefined || this.#peers.revision > orders.revision;
    for (const id of containers) {
      const one = desiredAllocation(cluster, volatile, node, id);
      const bytes = one === undefined ? undefined : encoded(DesiredAllocation, one);
      if (bytes !== undefined) fresh.set(id, bytes);
      if (note(orders.books.allocations, id, bytes, at)) isChanged = true;
    }
    for (const id of checkpoints) {
      const one = keptCheckpoint(cluster, node, id);
      const bytes = one === undefined ? undefined : encoded(KeptCheckpoint, one);
      if (note(orders.books.checkpoints, id, bytes, at)) isChanged = true;
    }
    if (orders.index !== member.index) {
      orders.index = member.index;
      note(orders.books.own, NETWORK, encoded(NetworkSettings, networkOf(member.index)), at);
      isChanged = true;
    }
    if (!isChanged) return false;
    this.#revision = orders.revision = at;
    this.#orders.set(node, orders);
    this.#encoded = { orders, revision: at, byContainer: fresh };
    return true;
  }

  /** Sends what is new since the last message. */
  publish(cluster: Cluster, volatile: Volatile, node: string): void {
    const orders = this.#orders.get(node);
    if (orders === undefined || orders.sent === orders.revision) return;
    const messages = this.#messages({ cluster, volatile, node, orders }, orders.sent);
    orders.sent = orders.revision;
    for (const message of messages) this.#link.publish(desiredSubject(node), message);
  }

  /** What the node lacks; more than one message does not fit the answer to its report, and is to be published. */
  missing(cluster: Cluster, volatile: Volatile, node: string, known: Known): readonly Uint8Array[] {
    const orders = this.#orders.get(node);
    if (orders === undefined) return [];
    const base = known.leaderEpoch === this.#epoch && known.revision <= orders.revision ? known.revision : 0;
    if (base > 0) settleAll(orders.books, base);
    // What was published reaches it before this answer does. Should it be lost, the next report still lacks it.
    const from = base > 0 && base >= orders.answered ? Math.max(base, orders.sent) : base;
    const messages =
      from === orders.revision ? [] : this.#messages({ cluster, volatile, node, orders }, from);
    orders.sent = orders.revision;
    // Those that are too many for the answer are published after it.
    if (messages.length <= 1) orders.answered = orders.revision;
    return messages;
  }
  send(node: string, messages: readonly Uint8Array[]): void {
    for (const message of messages) this.#link.publish(desiredSubject(node), message);
  }

  #messages(of: Recipient, wanted: number): Uint8Array[] {
    const changed = wanted > 0 ? changedSince(of.orders.books, wanted) : undefined;
    const base = changed === undefined ? 0 : wanted;
    const peers = base === 0 ? this.#peers.all() : this.#peers.since(base);
    const pieces = this.#pieces(of, changed ?? allKeys(of.orders));
    if (peers !== undefined && peers.bytes.length > 0) pieces.push({ bytes: peers.bytes });
    const { revision } = of.orders;
    const head = { ...NOTHING, leaderEpoch: this.#epoch, revision, base, allPeers: peers?.all === true };
    const parts = this.#pack(of.node, pieces);
    return parts.map((part, at) =>
      // Fields of encoded messages that are joined are those of one message.
      encoded(Desired, parts.length === 1 ? head : { ...head, parts: parts.length, part: at }, part),
    );
  }

  /** Fields of a Desired, as they are now. */
  #pieces({ cluster, node, orders, volatile }: Recipient, keys: Keys): EncodedPart[] {
    const fresh = this.#encoded?.orders === orders ? this.#encoded : undefined;
    const pieces: EncodedPart[] = [];
    const removed = { removedAllocations: [] as string[], removedCheckpoints: [] as string[] };
    for (const id of keys.allocations) {
      const known = fresh?.revision === orders.revision ? fresh.byContainer.get(id) : undefined;
      const one = known === undefined ? desiredAllocation(cluster, volatile, node, id) : undefined;
      if (known !== undefined) pieces.push({ tag: ALLOCATION_TAG, bytes: known });
      else if (one === undefined) removed.removedAllocations.push(id);
      else pieces.push({ tag: ALLOCATION_TAG, bytes: encoded(DesiredAllocation, one) });
    }
    for (const id of keys.checkpoints) {
      const one = keptCheckpoint(cluster, node, id);
      if (one === undefined) removed.removedCheckpoints.push(id);
      else pieces.push({ tag: CHECKPOINT_TAG, bytes: encoded(KeptCheckpoint, one) });
    }
    const network = networkOf(cluster.state.nodes[node]?.index ?? 0);
    if (keys.own.length > 0) pieces.push({ tag: NETWORK_TAG, bytes: encoded(NetworkSettings, network) });
    if (removed.removedAllocations.length + removed.removedCheckpoints.length > 0)
      pieces.push({ bytes: encoded(Desired, { ...NOTHING, ...removed }) });
    return pieces;
  }

  /** Into as few messages as they fit; none, if there is one that fits no message. */
  #pack(node: string, pieces: readonly EncodedPart[]): EncodedPart[][] {
    const mostBytes = this.#link.maxPayloadBytes - ENVELOPE_BYTES;
    const parts: EncodedPart[][] = [[]];
    let bytes = 0;
    let allBytes = 0;
    let fits = true;
    for (const piece of pieces) {
      const length = piece.bytes.length + TAG_BYTES;
      if (length > mostBytes) fits = false;
      if (bytes > 0 && bytes + length > mostBytes) {
        parts.push([]);
        bytes = 0;
      }
      parts.at(-1)?.push(piece);
      bytes += length;
      allBytes += length;
    }
    if (fits) this.oversized.delete(node);
    else this.oversized.set(node, allBytes);
    return fits ? parts : [];
  }
}

const begin = (revision: number): Orders => ({
  revision: 0,
  sent: 0,
  answered: 0,
  index: -1,
  books: {
    allocations: new ChangeBook(revision),
    checkpoints: new ChangeBook(revision),
    own: new ChangeBook(revision),
  },
});

/** True: it is another than before. */
const note = (book: ChangeBook, key: string, bytes: Uint8Array | undefined, at: number): boolean =>
  bytes === undefined ? book.remove(key, at) : book.put(key, printOf(bytes), at);

const allKeys = ({ books: { allocations, checkpoints, own } }: Orders): Keys => ({
  allocations: [...allocations.keys()],
  checkpoints: [...checkpoints.keys()],
  own: [...own.keys()],
});
