import { createHash } from "node:crypto";
import { GodwitError } from "../../proto/contract/error.ts";
import { LogEntry, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { applyEntry } from "../state/apply.ts";
import { emptyCluster, replaceCluster, type Cluster } from "../state/cluster.ts";
import { canonicalPieces } from "../state/hash.ts";
import type { Outcome } from "../state/rejection.ts";
import type { StoredEntry } from "./log-store.ts";

export const sha256 = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();

export const stateHash = (
  cluster: Cluster,
  pieces: Iterable<Uint8Array> = canonicalPieces(cluster),
): string => {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest("hex");
};

export interface Applied {
  readonly sequence: number;
  readonly entry: LogEntry;
  readonly outcomes: readonly Outcome[];
  /** Of the entry in the log. */
  readonly bytes: number;
}

export interface ReplicaStart {
  readonly cluster: Cluster;
  readonly sequence: number;
  /** SHA-256 of the entry with that sequence. */
  readonly chainHash: Buffer;
}

/** One copy of the state, built from the log entry by entry; every entry is checked against the one before. */
export class Replica {
  readonly cluster: Cluster;
  #sequence: number;
  #chainHash: Buffer;
  #lastAtMs = 0;
  #hash: { readonly sequence: number; readonly value: string } | undefined;

  constructor(start: ReplicaStart = { cluster: emptyCluster(), sequence: 0, chainHash: Buffer.alloc(0) }) {
    this.cluster = start.cluster;
    this.#sequence = start.sequence;
    this.#chainHash = start.chainHash;
  }

  /** Goes on from a snapshot. Whoever holds the cluster sees the new state in it. */
  restart(start: ReplicaStart): void {
    replaceCluster(this.cluster, start.cluster);
    this.#sequence = start.sequence;
    this.#chainHash = start.chainHash;
    this.#hash = undefined;
  }

  get sequence(): number {
    return this.#sequence;
  }
  /** What the next entry has to carry as `prevHash`. */
  get chainHash(): Buffer {
    return this.#chainHash;
  }
  get lastAtMs(): number {
    return this.#lastAtMs;
  }
  /** Grows with the state, so it is computed when asked for and kept until the next entry. */
  hash(): string {
    if (this.#hash?.sequence !== this.#sequence)
      this.#hash = { sequence: this.#sequence, value: stateHash(this.cluster) };
    return this.#hash.value;
  }

  /** Throws `corrupt` when the entry does not follow from what this replica has, and changes nothing then. */
  apply(stored: StoredEntry, seen?: (command: Command) => void): Applied {
    const { sequence, bytes } = stored;
    if (sequence !== this.#sequence + 1)
      throw new GodwitError(
        "corrupt",
        `the log goes on with entry ${sequence}, but ${this.#sequence + 1} comes next`,
      );
    let entry: LogEntry;
    try {
      entry = LogEntry.decode(bytes);
    } catch (error) {
      throw new GodwitError("corrupt", `entry ${sequence} of the log cannot be read`, { cause: error });
    }
    if (!entry.prevHash.equals(this.#chainHash))
      throw new GodwitError(
        "corrupt",
        `the log's hash chain breaks at entry ${sequence}: it or the entry before was changed; restore the log from a good replica`,
      );
    const outcomes = applyEntry(this.cluster, entry, sequence, seen);
    this.#sequence = sequence;
    this.#chainHash = sha256(bytes);
    this.#lastAtMs = Math.max(this.#lastAtMs, entry.atMs);
    return { sequence, entry, outcomes, bytes: bytes.length };
  }
}
