/** Snapshots in a thread of their own: encoding a large state takes seconds, in which the leader must not stand still. */
import { once } from "node:events";
import { getHeapStatistics } from "node:v8";
import { Worker } from "node:worker_threads";
import type { Logger } from "pino";
import { GodwitError, type ErrorCode } from "../../proto/contract/error.ts";
import type { NodeConnectionOptions } from "@nats-io/transport-node";
import type { MakeSnapshot } from "./snapshot-making.ts";
import type { SnapshotSaved } from "./snapshots.ts";

const MIB = 1024 ** 2;

export interface SnapshotThreadTerms {
  /** Plain data: the thread connects for itself. */
  readonly settings: NodeConnectionOptions;
  readonly replicas: number;
}

export type FromSnapshotThread =
  | { readonly kind: "saved"; readonly saved: SnapshotSaved }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly message: string }
  | { readonly kind: "warning"; readonly fields: Record<string, string>; readonly text: string };

/** One thread a snapshot, which leaves no memory behind. */
export const snapshotThread =
  (terms: SnapshotThreadTerms, logger: Pick<Logger, "warn">): MakeSnapshot =>
  async (sequence, signal) => {
    signal.throwIfAborted();
    const worker = new Worker(new URL("snapshot-program.ts", import.meta.url), {
      name: "snapshot",
      workerData: { ...terms, sequence },
      resourceLimits: { maxOldGenerationSizeMb: Math.ceil(getHeapStatistics().heap_size_limit / MIB) },
    });
    const answer = Promise.withResolvers<SnapshotSaved>();
    worker.on("message", (message: FromSnapshotThread) => {
      if (message.kind === "warning") logger.warn(message.fields, message.text);
      else if (message.kind === "saved") answer.resolve(message.saved);
      else answer.reject(new GodwitError(message.code, message.message));
    });
    worker.on("error", (error) => answer.reject(error));
    const giveUp = (): void => answer.reject(new GodwitError("cancelled", "the scheduler is shutting down"));
    signal.addEventListener("abort", giveUp, { once: true });
    const ended = once(worker, "exit").then(() =>
      answer.reject(new GodwitError("internal", "the snapshot's thread ended without a word")),
    );
    try {
      return await answer.promise;
    } finally {
      signal.removeEventListener("abort", giveUp);
      await worker.terminate();
      await ended;
    }
  };
