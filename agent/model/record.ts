import { ContainerSpec, Image, type HealthState } from "../../proto/gen/godwit/v1/spec.ts";

/**
 * What an agent must know of a container after a restart: one JSON file a container, replaced atomically
 * before each step whose half would otherwise be a riddle. Pure.
 */
export interface ContainerRecord {
  readonly containerId: string;
  readonly epoch: number;
  readonly spec: ContainerSpec;
  readonly image: Image;
  /** With prefix length. */
  readonly address: string;
  readonly mac: string;
  readonly restartGeneration: number;
  readonly restarts: number;
  /** Quick ones in a row, by which the wait before the next grows. Absent in records of older agents: none. */
  readonly recentRestarts?: number;
  /** Absent: nobody checks, or has yet. */
  readonly health?: HealthState;
  readonly status: RecordStatus;
}

export interface InitProcess {
  readonly pid: number;
  /** Clock ticks from boot to its start: with the pid, it names one process for good. */
  readonly startTicks: number;
}

/** Where memory is that a running container lacks. */
export interface FollowingMemory {
  readonly migrationId: string;
  readonly from: string;
}

export type RecordStatus =
  /** Nothing of it runs; its writable layer is there. `startAtMs`: not to be started again before. */
  | {
      readonly kind: "stopped";
      readonly exitCode: number;
      readonly message: string;
      readonly failed: boolean;
      readonly startAtMs: number;
    }
  /** Between the first side effect of a start and a running container. */
  | { readonly kind: "starting" }
  | {
      readonly kind: "running";
      readonly init: InitProcess;
      readonly startedAtMs: number;
      /** Post-copy: some of its memory is still there. */
      readonly following?: FollowingMemory;
    }
  /**
   * Frozen to be moved. `sent`: whether the target can have the whole image: "no" lets this host thaw it by
   * itself, anything else leaves that to the log.
   */
  | {
      readonly kind: "frozen";
      readonly init: InitProcess;
      readonly startedAtMs: number;
      readonly migrationId: string;
      readonly sent: "no" | "maybe" | "yes";
    }
  /**
   * Stopped, or about to be, to go on elsewhere from its files alone. `sent` as of a frozen one: with "no" this host
   * starts it again by itself.
   */
  | {
      readonly kind: "halted";
      readonly init: InitProcess;
      readonly startedAtMs: number;
      readonly migrationId: string;
      readonly sent: "no" | "maybe" | "yes";
    }
  /**
   * Being made from an image. "receiving": the image is not whole. "received": it is, and nothing has run.
   * "ran": CRIU was told to let it run; its log tells whether it has. "given-up": it cannot be restored, has not run and never will
   * on this host.
   */
  | {
      readonly kind: "restoring";
      readonly migrationId: string;
      readonly stage: "receiving" | "received" | "ran" | "given-up";
      readonly init?: InitProcess;
      /** The received CheckpointDescription in base64, from "received" on. */
      readonly description?: string;
      /** Of a post-copy, from "received" on. */
      readonly following?: FollowingMemory;
      /** Why it was given up. */
      readonly failure?: string;
    };

export function encodeRecord(record: ContainerRecord): string {
  return JSON.stringify({
    ...record,
    spec: ContainerSpec.toJSON(record.spec),
    image: Image.toJSON(record.image),
  });
}

export function decodeRecord(text: string): ContainerRecord {
  const parsed = JSON.parse(text) as ContainerRecord;
  return { ...parsed, spec: ContainerSpec.fromJSON(parsed.spec), image: Image.fromJSON(parsed.image) };
}

/** Post-copy: it runs, and some of its memory is still at its source. */
export const lacksMemory = (
  status: RecordStatus | undefined,
): status is Extract<RecordStatus, { kind: "running" }> & { readonly following: FollowingMemory } =>
  status?.kind === "running" && status.following !== undefined;
