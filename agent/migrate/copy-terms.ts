/** What a copy of a container is made with, by whoever sends it: to another host, or into a checkpoint. */
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { SubjectSampler } from "../forecast/subject-sampler.ts";
import type { Host } from "../host.ts";
import type { Recording } from "../keep/recording.ts";
import type { ContainerRecord, RecordStatus } from "../model/record.ts";
import type { ImageSender } from "../stream/sender.ts";
import type { Copied } from "./copied.ts";
import type { CopyPilot } from "./copy-pilot.ts";
import type { MigrationProgress } from "./progress.ts";

export interface SourceInputs {
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly record: ContainerRecord;
  readonly order: MigrationOrder;
  readonly signal: AbortSignal;
  /** Persists before it returns. */
  readonly setStatus: (status: RecordStatus) => void;
  readonly progress: MigrationProgress;
  readonly sampler: SubjectSampler;
  /** What sessions are told that have to end; without it, that the container moves. */
  readonly farewell?: string;
}

export type RunningStatus = Extract<RecordStatus, { kind: "running" }>;

/** Who decides how a copy goes on. */
export type Steering = Pick<
  CopyPilot,
  "signal" | "follow" | "goesOn" | "add" | "freezes" | "committed" | "sent"
>;

export interface CopyMeans {
  readonly sender: ImageSender;
  readonly pilot: Steering;
  readonly recording: Recording | undefined;
  /** Another copy will build upon this one. It may itself build upon an earlier one. */
  readonly chain?: { readonly base: Copied | undefined; readonly copied: (copied: CopiedWhole) => void };
}

export interface CopiedWhole extends Copied {
  /** Memory and files, as they are in the container. */
  readonly wholeBytes: number;
}
