/** What the scheduler needs of a replicated log. */

export interface StoredEntry {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

export type AppendResult =
  | { readonly kind: "stored"; readonly sequence: number }
  /** The log's last sequence was another one: certainly not stored by this attempt. */
  | { readonly kind: "conflict" };

export interface Bounds {
  /** Of the first entry that is still there; last + 1 when there is none. */
  readonly first: number;
  readonly last: number;
}

/** What the committer needs of a log; tests put a faulty one in front of the real one. */
export interface LogStore {
  bounds(): Promise<Bounds>;
  readOne(sequence: number): Promise<StoredEntry | undefined>;
  read(from: number, to: number): AsyncIterable<StoredEntry>;
  /** Rejects when the outcome is not known. */
  append(bytes: Uint8Array, expectedLast: number): Promise<AppendResult>;
  trimBefore(sequence: number): Promise<void>;
}
