/** Snapshots in a JetStream object store: the canonical state, named by the log entry that it covers. */
import { StorageType } from "@nats-io/jetstream";
import { Objm, setSha256Backend, type ObjectInfo, type ObjectStore } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { GodwitError } from "../../proto/contract/error.ts";
import { SNAPSHOT_STORE } from "../../proto/contract/subjects.ts";
import type { Cluster } from "../state/cluster.ts";
import { decodeCluster, decodeFirstFormat } from "../state/decode.ts";
import { canonicalPieces, firstFormatPieces } from "../state/hash.ts";
import { sha256, stateHash, type Replica, type ReplicaStart } from "./replica.ts";

// The store's own digest of each object, which is computed in JavaScript unless it is told otherwise.
setSha256Backend("native");

type Pieces = (cluster: Cluster) => Iterable<Uint8Array>;

const KEPT = 2;
const FORMAT = "2";
/** Formats that can be read: how, and what their hash is of. */
const FORMATS: ReadonlyMap<string, { readonly decode: typeof decodeCluster; readonly pieces: Pieces }> =
  new Map([
    ["1", { decode: decodeFirstFormat, pieces: firstFormatPieces }],
    [FORMAT, { decode: decodeCluster, pieces: canonicalPieces }],
  ]);
const PREFIX = "state-";

export interface Snapshot {
  readonly sequence: number;
  readonly bytes: Uint8Array;
  readonly stateHash: string;
  readonly chainHash: Buffer;
}

/** What has become of a snapshot. */
export interface SnapshotSaved {
  readonly sequence: number;
  readonly stateHash: string;
  readonly bytes: number;
  /** Of the oldest that is kept: behind it the log may be trimmed. Undefined: there is only one. */
  readonly trimBehind: number | undefined;
}

/** What a store says when it leaves a snapshot out. */
type Warn = (fields: { readonly snapshot: string; readonly err: Error }, text: string) => void;

/** Copies the state as it is now. */
export const takeSnapshot = (replica: Replica): Snapshot => {
  const bytes = Buffer.concat([...canonicalPieces(replica.cluster)]);
  return {
    sequence: replica.sequence,
    bytes,
    stateHash: sha256(bytes).toString("hex"),
    chainHash: replica.chainHash,
  };
};

const nameOf = (sequence: number): string => `${PREFIX}${String(sequence).padStart(16, "0")}`;

/** What snapshots need of an object store; the simulation keeps one in memory. */
export type SnapshotObjects = Pick<ObjectStore, "delete" | "getBlob" | "info" | "list" | "putBlob">;

export interface Newest {
  /** The newest snapshot that is whole; undefined: there is none. */
  readonly start: ReplicaStart | undefined;
  /** Of the newest by its name, whole or not: so far the log has been. 0: there is none. */
  readonly named: number;
}

export class SnapshotStore {
  readonly #store: SnapshotObjects;
  readonly #logger: { readonly warn: Warn };

  constructor(store: SnapshotObjects, logger: { readonly warn: Warn }) {
    this.#store = store;
    this.#logger = logger;
  }

  static async open(
    connection: NatsConnection,
    replicas: number,
    logger: { readonly warn: Warn },
  ): Promise<SnapshotStore> {
    const store = await new Objm(connection).create(SNAPSHOT_STORE, { storage: StorageType.File, replicas });
    return new SnapshotStore(store, logger);
  }

  /** Oldest first. */
  async #list(): Promise<ObjectInfo[]> {
    const all = await this.#store.list();
    return all
      .filter(({ name, deleted }) => name.startsWith(PREFIX) && !deleted)
      .toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  async newest(): Promise<Newest> {
    const list = await this.#list();
    const named = Number(list.at(-1)?.name.slice(PREFIX.length) ?? 0);
    for (const info of list.toReversed()) {
      try {
        return { start: await this.#load(info), named };
      } catch (error) {
        if (!(error instanceof GodwitError) || error.code !== "corrupt") throw error;
        this.#logger.warn({ snapshot: info.name, err: error }, "snapshot left out");
      }
    }
    return { start: undefined, named };
  }

  /** Reads a snapshot back and checks it, down to the hash of the state that it decodes to. */
  async #load(info: ObjectInfo): Promise<ReplicaStart> {
    const { format, sequence, stateHash: expected, chainHash } = info.metadata ?? {};
    const broken = (why: string, cause?: unknown): GodwitError =>
      new GodwitError("corrupt", `snapshot ${info.name}: ${why}`, { cause });
    const known = FORMATS.get(format ?? "");
    if (known === undefined) throw broken(`its format ${format ?? "(none)"} is not known to this version`);
    let bytes: Uint8Array | null;
    try {
      bytes = await this.#store.getBlob(info.name);
    } catch (error) {
      // The object store checks a digest of its own and has no error class for it.
      if (error instanceof Error && /digest|sha/i.test(error.message))
        throw broken("its digest is wrong", error);
      throw error;
    }
    if (bytes === null) throw broken("its content is missing");
    if (sha256(bytes).toString("hex") !== expected) throw broken("its content was changed");
    let cluster: Cluster;
    try {
      cluster = known.decode(bytes);
    } catch (error) {
      throw broken("its content cannot be read", error);
    }
    const { state } = cluster;
    if (String(state.lastSequence) !== sequence || stateHash(cluster, known.pieces(cluster)) !== expected)
      throw broken("it is not the state that it says it is");
    return { cluster, sequence: state.lastSequence, chainHash: Buffer.from(chainHash ?? "", "hex") };
  }

  /**
   * Stores a snapshot, reads it back, and forgets all but the last two: if the newest turns out broken one day the other
   * one still does.
   */
  async save(snapshot: Snapshot): Promise<SnapshotSaved> {
    const name = nameOf(snapshot.sequence);
    await this.#store.putBlob(
      {
        name,
        metadata: {
          format: FORMAT,
          sequence: String(snapshot.sequence),
          stateHash: snapshot.stateHash,
          chainHash: snapshot.chainHash.toString("hex"),
        },
      },
      snapshot.bytes,
    );
    const info = await this.#store.info(name);
    if (info === null) throw new GodwitError("corrupt", `snapshot ${name} is not there after it was stored`);
    await this.#load(info);
    const list = await this.#list();
    for (const old of list.slice(0, -KEPT)) await this.#store.delete(old.name);
    const kept = list.slice(-KEPT);
    const oldest = kept.length === KEPT ? kept[0]?.metadata?.["sequence"] : undefined;
    const trimBehind = oldest === undefined ? undefined : Number(oldest);
    const { bytes, sequence, stateHash: hash } = snapshot;
    return { sequence, stateHash: hash, bytes: bytes.length, trimBehind };
  }
}
