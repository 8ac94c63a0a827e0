/** What every node is told of all others: in a large cluster most of a Desired, so it is encoded once for all of them. */
import { Desired, type Peer } from "../../proto/gen/godwit/v1/agent.ts";
import { peersOf } from "../plan/desired.ts";
import type { Cluster } from "../state/cluster.ts";

const NOTHING = Desired.fromPartial({});
/** Changes that are kept, beside as many bytes as there are of all peers. */
const LEAST_KEPT_BYTES = 65_536;

const encode = (peers: Peer[]): Uint8Array => Desired.encode({ ...NOTHING, peers }).finish();

/** Fields of a Desired. */
export interface PeersTold {
  readonly bytes: Uint8Array;
  /** They are all that there are, and not changes. */
  readonly all: boolean;
}

export class PeerBook {
  /** All that there were when it was begun anew, and then changes: read in their order, all that there are now. */
  #bytes: Uint8Array = new Uint8Array();
  #firstBytes = 0;
  /** By change: the revision that first told it, and where it begins. */
  #changes: { readonly revision: number; readonly from: number }[] = [];
  #floor = 0;
  #version = -1;
  /** Of the newest change. */
  #revision = 0;

  get revision(): number {
    return this.#revision;
  }
  isBehind({ peers }: Cluster): boolean {
    return peers.version !== this.#version;
  }

  /** `revision` is higher than any that a node was told before. */
  update(cluster: Cluster, revision: number): void {
    const { peers, state } = cluster;
    if (this.#version === -1 || this.#bytes.length > 2 * this.#firstBytes + LEAST_KEPT_BYTES) {
      this.#bytes = encode(peersOf(cluster));
      this.#firstBytes = this.#bytes.length;
      this.#changes = [];
      this.#floor = revision;
    } else {
      const changed = [...peers.changed].map((node) => ({
        node,
        underlayAddress: state.nodes[node]?.info?.underlayAddress ?? "",
      }));
      this.#changes.push({ revision, from: this.#bytes.length });
      this.#bytes = Buffer.concat([this.#bytes, encode(changed)]);
    }
    peers.changed.clear();
    this.#version = peers.version;
    this.#revision = revision;
  }

  all(): PeersTold {
    return { bytes: this.#bytes, all: true };
  }
  /** For a node that was told all that there was at that revision; undefined: nothing. */
  since(base: number): PeersTold | undefined {
    if (base >= this.#revision) return undefined;
    if (base < this.#floor) return this.all();
    const first = this.#changes.find(({ revision }) => revision > base);
    return first === undefined ? undefined : { bytes: this.#bytes.subarray(first.from), all: false };
  }
}
