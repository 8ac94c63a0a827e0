/** What a node has been told to do, put together from full messages and from differences. Pure. */
import type {
  Desired,
  DesiredAllocation,
  NetworkSettings,
  Peer,
  ReportReply,
} from "../gen/godwit/v1/agent.ts";
import type { KeptCheckpoint } from "../gen/godwit/v1/checkpoint.ts";
import { isId } from "./ids.ts";

const MOST_PARTS = 4_096;

/**
 * What became of a message. "older": these orders or newer ones are known. "gap": it begins at orders that are not known
 * here, and nothing of it may be followed. "part": others are missing yet. "taken": these containers have other orders
 * than before, or none any more.
 */
export type Taken =
  | { readonly kind: "older" | "gap" | "part" }
  | { readonly kind: "taken"; readonly changed: readonly string[]; readonly gone: readonly string[] };

export class Orders {
  readonly allocations = new Map<string, DesiredAllocation>();
  readonly keptCheckpoints = new Map<string, KeptCheckpoint>();
  /** Underlay addresses by node. */
  readonly #peers = new Map<string, string>();
  network: NetworkSettings | undefined;
  #leaderEpoch = 0;
  #revision = 0;
  /** Of orders that come in parts. */
  #parts: (Desired | undefined)[] = [];
  /** Orders that were published and had not come when a report was answered. */
  #missed = 0;

  get leaderEpoch(): number {
    return this.#leaderEpoch;
  }
  get revision(): number {
    return this.#revision;
  }
  get peers(): Peer[] {
    return [...this.#peers].map(([node, underlayAddress]) => ({ node, underlayAddress }));
  }

  /**
   * By the answer to a report there are orders that have not come. They were published before the answer, so they are
   * lost, and the answer to one more report will have them; those alone that are too many for an answer follow it. True
   * once for each.
   */
  hasMissed({ desired, desiredRevision }: Pick<ReportReply, "desired" | "desiredRevision">): boolean {
    if (desired !== undefined || desiredRevision <= this.#revision || desiredRevision === this.#missed)
      return false;
    this.#missed = desiredRevision;
    return true;
  }

  take(message: Desired): Taken {
    const { base, leaderEpoch, revision } = message;
    const newer =
      leaderEpoch > this.#leaderEpoch || (leaderEpoch === this.#leaderEpoch && revision > this.#revision);
    if (!newer) return { kind: "older" };
    // All that has changed since the base is in it, so it fits whatever is known from there on.
    if (base !== 0 && (leaderEpoch !== this.#leaderEpoch || base > this.#revision)) return { kind: "gap" };
    const desired = message.parts > 1 ? this.#whole(message) : message;
    if (desired === undefined) return { kind: "part" };
    this.#parts = [];
    this.#leaderEpoch = leaderEpoch;
    this.#revision = revision;
    this.#takeRest(desired);
    return this.#takeAllocations(desired);
  }

  /** Undefined until all parts of one and the same message are there. */
  #whole(message: Desired): Desired | undefined {
    const { base, leaderEpoch, part, parts, revision } = message;
    if (parts > MOST_PARTS || part >= parts) return undefined;
    const [known] = this.#parts.filter((one) => one !== undefined);
    const isOther =
      known?.revision !== revision ||
      known.leaderEpoch !== leaderEpoch ||
      known.base !== base ||
      known.parts !== parts;
    if (isOther) {
      const isLate =
        known !== undefined &&
        (known.leaderEpoch > leaderEpoch || (known.leaderEpoch === leaderEpoch && known.revision > revision));
      if (isLate) return undefined;
      this.#parts = Array.from({ length: parts }, () => undefined);
    }
    this.#parts[part] = message;
    const all = this.#parts.filter((one) => one !== undefined);
    if (all.length < parts) return undefined;
    return {
      ...message,
      allocations: all.flatMap((one) => one.allocations),
      removedAllocations: all.flatMap((one) => one.removedAllocations),
      keptCheckpoints: all.flatMap((one) => one.keptCheckpoints),
      removedCheckpoints: all.flatMap((one) => one.removedCheckpoints),
      peers: all.flatMap((one) => one.peers),
      network: all.find((one) => one.network !== undefined)?.network,
    };
  }

  #takeRest(desired: Desired): void {
    const isFull = desired.base === 0;
    if (isFull || desired.allPeers) this.#peers.clear();
    for (const { node, underlayAddress } of desired.peers)
      if (underlayAddress === "") this.#peers.delete(node);
      else this.#peers.set(node, underlayAddress);
    if (isFull || desired.network !== undefined) this.network = desired.network;
    if (isFull) this.keptCheckpoints.clear();
    for (const id of desired.removedCheckpoints) this.keptCheckpoints.delete(id);
    for (const one of desired.keptCheckpoints) if (isId(one.id)) this.keptCheckpoints.set(one.id, one);
  }

  #takeAllocations(desired: Desired): Taken {
    const named = desired.allocations.filter(({ containerId }) => isId(containerId));
    const changed = named.map(({ containerId }) => containerId);
    const isNamed = new Set(changed);
    const gone = (desired.base === 0 ? [...this.allocations.keys()] : desired.removedAllocations).filter(
      (id) => !isNamed.has(id),
    );
    for (const id of gone) this.allocations.delete(id);
    for (const one of named) this.allocations.set(one.containerId, one);
    return { kind: "taken", changed, gone };
  }
}
