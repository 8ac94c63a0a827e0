import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import type { LogStore } from "./log-store.ts";
import type { Machine } from "./machine.ts";
import type { Replica } from "./replica.ts";
import type { MakeSnapshot } from "./snapshot-making.ts";
import type { SnapshotSaved } from "./snapshots.ts";

export interface SnapshotterOptions {
  readonly make: MakeSnapshot;
  /** From the replica as it is, for when nothing in the store can be gone on from: nobody else has the state then. */
  readonly rescue: () => Promise<SnapshotSaved>;
  readonly log: Pick<LogStore, "trimBefore">;
  readonly replica: Pick<Replica, "sequence">;
  /** Entries between two snapshots; more where they are small beside the state. */
  readonly every: number;
  readonly machine: Pick<Machine, "after">;
  readonly logger: Logger;
}

/** A small state's snapshot is there by then; a large one is given up, and made by the next leader. */
const SETTLE_MS = 3_000;
/**
 * A snapshot of more costs seconds of a core. It is made anew when the log has grown by as much as it takes, so that
 * making snapshots takes no larger part of the work, and reading the log no more time beside reading one, in a large
 * cluster than in a small one.
 */
const LARGE_BYTES = 8 * 1024 ** 2;

/** Has a snapshot made every so many entries and trims the log behind the older of the two that are kept. */
export class Snapshotter implements AsyncDisposable {
  readonly #options: SnapshotterOptions;
  readonly #stop = new AbortController();
  #sequence: number;
  #stateHash = "";
  #nextAt: number;
  /** Of the newest snapshot that was made here. */
  #bytes = 0;
  /** Of the entries since, as far as they were seen. */
  #grownBytes = 0;
  #saving: Promise<void> | undefined;
  #failure: GodwitError | undefined;

  constructor(options: SnapshotterOptions) {
    this.#options = options;
    this.#sequence = options.replica.sequence;
    this.#nextAt = this.#sequence + options.every;
  }

  /** Of the last entry that a verified snapshot covers. */
  get sequence(): number {
    return this.#sequence;
  }
  /** Of the state in it; empty: this scheduler has not made one yet. */
  get stateHash(): string {
    return this.#stateHash;
  }
  get failure(): GodwitError | undefined {
    return this.#failure;
  }

  /** To be called after each entry, with its size. */
  consider(bytes: number): void {
    const { replica } = this.#options;
    this.#grownBytes += bytes;
    if (this.#saving !== undefined || this.#stop.signal.aborted || replica.sequence < this.#nextAt) return;
    if (this.#bytes >= LARGE_BYTES && this.#grownBytes < this.#bytes) return;
    this.#saving = this.#save(replica.sequence).finally(() => {
      this.#saving = undefined;
    });
  }

  async settle(): Promise<void> {
    await this.#saving;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    using _ = this.#options.machine.after(SETTLE_MS, () => this.#stop.abort());
    await this.#saving;
    this.#stop.abort();
  }

  async #save(wanted: number): Promise<void> {
    const { every, log, logger, replica } = this.#options;
    const coveredBytes = this.#grownBytes;
    try {
      const { bytes, sequence, stateHash, trimBehind } = await this.#made(wanted);
      this.#sequence = sequence;
      this.#stateHash = stateHash;
      this.#nextAt = sequence + every;
      this.#bytes = bytes;
      this.#grownBytes -= coveredBytes;
      this.#failure = undefined;
      // The entry that the older snapshot covers stays, to check the snapshot against it.
      if (trimBehind !== undefined) await log.trimBefore(trimBehind);
      logger.info({ sequence, bytes, trimmedBefore: trimBehind }, "snapshot taken");
    } catch (error) {
      // The log only grows longer than it has to be, so this may wait.
      this.#nextAt = replica.sequence + Math.max(1, Math.floor(every / 10));
      this.#failure = GodwitError.from(error, "unavailable");
      if (!this.#stop.signal.aborted)
        logger.warn({ err: error }, "the snapshot could not be taken; the log is kept");
    }
  }

  async #made(wanted: number): Promise<SnapshotSaved> {
    const { logger, make, rescue } = this.#options;
    try {
      return await make(wanted, this.#stop.signal);
    } catch (error) {
      if (GodwitError.from(error).code !== "corrupt") throw error;
      logger.warn({ err: error }, "no snapshot can be gone on from: this one is made of what the leader has");
      return rescue();
    }
  }
}
