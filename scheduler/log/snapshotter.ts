import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import type { LogStore } from "./jetstream-log.ts";
import type { Replica } from "./replica.ts";
import { takeSnapshot, type SnapshotStore } from "./snapshots.ts";

export interface SnapshotterOptions {
  readonly store: Pick<SnapshotStore, "save">;
  readonly log: Pick<LogStore, "trimBefore">;
  readonly replica: Replica;
  /** Entries between two snapshots. */
  readonly every: number;
  readonly logger: Logger;
}

/** Makes a snapshot every so many entries and trims the log behind the older of the two that are kept. */
export class Snapshotter {
  readonly #options: SnapshotterOptions;
  #sequence: number;
  #nextAt: number;
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
  get failure(): GodwitError | undefined {
    return this.#failure;
  }

  /** To be called after each entry. */
  consider(): void {
    const { replica } = this.#options;
    if (this.#saving !== undefined || replica.sequence < this.#nextAt) return;
    this.#saving = this.#save().finally(() => {
      this.#saving = undefined;
    });
  }

  async settle(): Promise<void> {
    await this.#saving;
  }

  async #save(): Promise<void> {
    const { every, log, logger, replica, store } = this.#options;
    const snapshot = takeSnapshot(replica);
    try {
      const { trimBehind } = await store.save(snapshot);
      this.#sequence = snapshot.sequence;
      this.#nextAt = snapshot.sequence + every;
      this.#failure = undefined;
      // The entry that the older snapshot covers stays, to check the snapshot against it.
      if (trimBehind !== undefined) await log.trimBefore(trimBehind);
      logger.info(
        { sequence: snapshot.sequence, bytes: snapshot.bytes.length, trimmedBefore: trimBehind },
        "snapshot taken",
      );
    } catch (error) {
      // The log only grows longer than it has to be, so this may wait.
      this.#nextAt = replica.sequence + Math.max(1, Math.floor(every / 10));
      this.#failure = GodwitError.from(error, "unavailable");
      logger.warn({ err: error }, "the snapshot could not be taken; the log is kept");
    }
  }
}
