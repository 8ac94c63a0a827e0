import {
  closeSync,
  fsyncSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { mkdir } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

import type { NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import { isId } from "../../proto/contract/ids.ts";
import {
  CheckpointPhase,
  CheckpointReport,
  type KeptCheckpoint,
} from "../../proto/gen/godwit/v1/checkpoint.ts";
import { diskError } from "../layer/apply.ts";
import type { StreamIdentity } from "../stream/identity.ts";
import { openReceiver } from "../stream/receiver.ts";

/** The source opens its end when it has taken it, which takes as long as it takes. */
const SOURCE_SILENT_MS = 300_000;
/** After it has begun to send, it sends again within a minute or so (see take.ts), or never, because it has been told that all is here. */
const SOURCE_AGAIN_MS = 90_000;
const TRIES = 3;
const AGAIN_MS = 1_000;
const STORED = ".checkpoint";
const TAKEN = ".taken";

export interface CheckpointStoreTerms {
  /** For root alone. */
  readonly folder: string;
  readonly node: string;
  readonly identity: StreamIdentity;
  readonly connection: NatsConnection;
  readonly logger: Logger;
  readonly changed: () => void;
}

interface Reception {
  readonly abort: AbortController;
  readonly done: Promise<void>;
  error: string;
}

/** The name of the stream that brings a checkpoint to one of its keepers. */
export const checkpointStream = (id: string, keeper: string): string => `${id}-${keeper}`;

/**
 * Checkpoints of other nodes' containers that this one keeps: whole ones, or none. They are sealed with keys that this
 * host is given only when it is to restore one.
 */
export class CheckpointStore implements AsyncDisposable {
  readonly #terms: CheckpointStoreTerms;
  readonly #receptions = new Map<string, Reception>();
  readonly #stored = new Map<string, number>();
  readonly #cutOff = new Set<string>();
  #wanted = new Set<string>();

  private constructor(terms: CheckpointStoreTerms) {
    this.#terms = terms;
    for (const name of readdirSync(terms.folder)) {
      const id = name.endsWith(STORED) ? name.slice(0, -STORED.length) : "";
      if (isId(id)) {
        this.#stored.set(id, statSync(`${terms.folder}/${name}`).size);
        continue;
      }
      // What an earlier agent was about to take or to receive.
      const taken = name.endsWith(TAKEN) ? name.slice(0, -TAKEN.length) : "";
      if (isId(taken)) {
        this.#cutOff.add(taken);
        // The next agent is to know it, too, should this one end before the leader has heard of it.
        this.emptySpool(taken);
      } else rmSync(`${terms.folder}/${name}`, { force: true });
    }
  }

  static async open(terms: CheckpointStoreTerms): Promise<CheckpointStore> {
    await mkdir(terms.folder, { recursive: true, mode: 0o700 });
    return new CheckpointStore(terms);
  }

  /** Where one is made that is then sent to its keepers. */
  spoolPath(id: string): string {
    return `${this.#terms.folder}/${id}${TAKEN}`;
  }

  /** It has been sent, or never will be; that it was begun is remembered for as long as it is ordered. */
  emptySpool(id: string): void {
    try {
      truncateSync(this.spoolPath(id));
    } catch (error) {
      // It was not begun, or is not ordered any more.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }

  /** It is not ordered any more. */
  removeSpool(id: string): void {
    rmSync(this.spoolPath(id), { force: true });
  }

  /** What was begun by an earlier agent is remembered only as long as it is ordered. */
  forgetCutOff(isOrdered: (id: string) => boolean): void {
    for (const id of this.#cutOff)
      if (!isOrdered(id)) {
        this.removeSpool(id);
        this.#cutOff.delete(id);
      }
  }

  /** It was begun by an earlier agent of this host. What its keepers got of it nobody knows. */
  wasCutOff(id: string): boolean {
    return this.#cutOff.has(id);
  }

  /** Undefined: it is not here, or not whole. */
  path(id: string): string | undefined {
    return this.#stored.has(id) ? this.#file(id) : undefined;
  }

  /** Keeps these and nothing else. */
  follow(kept: readonly KeptCheckpoint[]): void {
    this.#wanted = new Set(kept.map(({ id }) => id).filter(isId));
    for (const [id, { abort }] of this.#receptions)
      if (!this.#wanted.has(id)) {
        abort.abort(new GodwitError("cancelled", "the checkpoint is no longer wanted"));
        this.#receptions.delete(id);
      }
    for (const id of this.#stored.keys())
      if (!this.#wanted.has(id)) {
        this.#stored.delete(id);
        rmSync(this.#file(id), { force: true });
      }
    for (const one of kept)
      if (isId(one.id) && !this.#stored.has(one.id) && !this.#receptions.has(one.id)) this.#begin(one);
  }

  reports(): CheckpointReport[] {
    return [...this.#wanted].map((id) => {
      const sizeBytes = this.#stored.get(id);
      if (sizeBytes !== undefined)
        return CheckpointReport.fromPartial({ id, phase: CheckpointPhase.STORED, sizeBytes });
      const error = this.#receptions.get(id)?.error ?? "";
      return error === ""
        ? CheckpointReport.fromPartial({ id, phase: CheckpointPhase.TAKING })
        : CheckpointReport.fromPartial({ id, phase: CheckpointPhase.FAILED, error });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const receptions = [...this.#receptions.values()];
    for (const { abort } of receptions) abort.abort(new GodwitError("cancelled", "the agent stops"));
    await Promise.all(receptions.map(({ done }) => done));
  }

  #file(id: string): string {
    return `${this.#terms.folder}/${id}${STORED}`;
  }

  #begin(kept: KeptCheckpoint): void {
    const abort = new AbortController();
    const reception: Reception = { abort, error: "", done: Promise.resolve() };
    const done = this.#receive(kept, abort.signal)
      .catch((error: unknown) => {
        if (abort.signal.aborted) return;
        reception.error = GodwitError.from(diskError(error)).message;
        this.#terms.logger.warn({ err: error, checkpoint: kept.id }, "a checkpoint could not be kept");
      })
      .finally(() => this.#terms.changed());
    this.#receptions.set(kept.id, Object.assign(reception, { done }));
  }

  async #receive(kept: KeptCheckpoint, signal: AbortSignal): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#receiveOnce(kept, attempt === 1 ? SOURCE_SILENT_MS : SOURCE_AGAIN_MS, signal);
        return;
      } catch (error) {
        if (signal.aborted || attempt === TRIES) throw error;
        await delay(AGAIN_MS, undefined, { signal, ref: false });
      }
    }
  }

  async #receiveOnce(
    { id, source }: KeptCheckpoint,
    idleTimeoutMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    const { connection, folder, identity, node } = this.#terms;
    if (source === undefined) throw new GodwitError("internal", "a checkpoint without a source");
    const part = `${folder}/${id}.part`;
    const descriptor = openSync(part, "w", 0o600);
    try {
      let sizeBytes = 0;
      {
        await using receiver = await openReceiver({
          connection,
          ends: {
            role: "target",
            migration: checkpointStream(id, node),
            node,
            identity,
            peerNode: source.node,
            peerKey: source.key,
          },
          signal,
          idleTimeoutMs,
        });
        // It ends well only if the digest over all of it is right.
        for await (const chunk of receiver.chunks())
          for (let written = 0; written < chunk.byteLength;) {
            const bytes = writeSync(descriptor, chunk, written, chunk.byteLength - written);
            written += bytes;
            sizeBytes += bytes;
          }
        fsyncSync(descriptor);
        renameSync(part, this.#file(id));
        syncFolder(folder);
      }
      // It may have been withdrawn meanwhile.
      if (signal.aborted) rmSync(this.#file(id), { force: true });
      else {
        this.#stored.set(id, sizeBytes);
        this.#receptions.delete(id);
      }
    } finally {
      closeSync(descriptor);
      rmSync(part, { force: true });
    }
  }
}

function syncFolder(folder: string): void {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
