/** What the rest of Godwit sees of the scheduler; see mod.ts. */
import type { NatsConnection, NodeConnectionOptions } from "@nats-io/transport-node";
import type { Logger } from "pino";
import type { Load, MigrationReport } from "../proto/gen/godwit/v1/agent.ts";
import type { Event } from "../proto/gen/godwit/v1/api.ts";
import type { AllocationState, Container, Migration, State } from "../proto/gen/godwit/v1/log.ts";
import type {
  Blocker,
  ContainerSpec,
  Image,
  MigrationForecast,
  MigrationMode,
} from "../proto/gen/godwit/v1/spec.ts";
import type { Maintenance } from "./maintenance.ts";
import type { WhyView } from "./plan/movable.ts";
import type { CheckpointOperations } from "./public-checkpoints.ts";
import type { FailoverOperations } from "./public-failover.ts";
import type { Services } from "./public-services.ts";
import type { Balancing } from "./public-balance.ts";
import type { PlacementScheduling } from "./public-placement.ts";

type DeepReadonly<T> = T extends (infer U)[]
  ? readonly DeepReadonly<U>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T;

/**
 * The replicated state. It is the replica's own object, changed in place by every log entry, and not a copy: read it
 * and let go of it, never write to it, and copy what has to outlive an `await`.
 */
export type DeepReadonlyState = DeepReadonly<State>;

export interface SchedulerOptions {
  /** Made with `connectionOptions` (mod.ts), so that it survives a restart of nats-server. Not closed by the scheduler. */
  readonly connection: NatsConnection;
  /** What it was made with, as plain data: the thread that makes snapshots connects for itself. */
  readonly settings: NodeConnectionOptions;
  readonly id: string;
  readonly logger: Logger;
  /** Copies of the log that JetStream keeps: 1, 3 or 5 (1). */
  readonly replicas?: number;
  /** A node silent for longer counts as lost (15,000). */
  readonly leaseMs?: number;
  /** A leader silent for longer is replaced by another scheduler (3,000, and at most `leaseMs`). */
  readonly leaderLeaseMs?: number;
  /** Where this scheduler's API is, as clients write it; told to the others. */
  readonly addresses?: readonly string[];
  /** Log entries between two snapshots (1,000). */
  readonly snapshotEvery?: number;
  readonly nowMs?: () => number;
}

export interface SchedulerStatus {
  readonly leaderId: string;
  readonly leading: boolean;
  readonly epoch: number;
  readonly logSequence: number;
  readonly snapshotSequence: number;
  /** SHA-256 in hexadecimal of the canonical state in the newest snapshot that it made; empty: it made none yet. */
  readonly snapshotHash: string;
  readonly warnings: readonly string[];
}

/** One of the cluster's schedulers, as far as this one knows. */
export interface SchedulerMember {
  readonly id: string;
  readonly role: "leader" | "standby" | "silent";
  /** How far it has read the log. */
  readonly logSequence: number;
  readonly addresses: readonly string[];
  /** The nats-server that it is connected to. */
  readonly server: string;
  /** Since it was last heard. */
  readonly silentMs: number;
}

/** A nats-server that keeps a copy of the log. */
export interface LogServer {
  readonly name: string;
  /** Appends go through it. */
  readonly leads: boolean;
  /** Has all of the log. */
  readonly current: boolean;
  /** Entries that it lacks. */
  readonly lag: number;
}

export interface NodeRuntime {
  /** What is left of the lease; negative: it ran out that long ago. */
  readonly leaseMs: number;
  /** Its containers stand still, because its lease had ended. */
  readonly fenceClosed: boolean;
  readonly load: Load;
  /** Digests of the images that are unpacked there. */
  readonly images: readonly string[];
}
export interface ContainerRuntime {
  readonly memoryBytes: number;
  readonly cpuUsageUsec: number;
  /** What keeps it from being moved anywhere, as its node last looked. */
  readonly blockers: readonly Blocker[];
  /** What its last health check said. */
  readonly healthOutput: string;
  /** Until it is started again; 0: it is not about to be. */
  readonly restartInMs: number;
  /** As last reported by the node that owns it, which may be ahead of the log. */
  readonly state: AllocationState;
}
export interface MigrationRuntime {
  readonly source?: MigrationReport;
  readonly target?: MigrationReport;
  /** Why it can neither go on nor end for now, and what an operator can do. */
  readonly standstill?: string;
}
/** What agents report and the log does not keep; empty right after a start. */
export interface Runtime {
  node(name: string): NodeRuntime | undefined;
  container(id: string): ContainerRuntime | undefined;
  migration(id: string): MigrationRuntime | undefined;
}

export interface MoveRequest {
  readonly containerId: string;
  /** Absent: the scheduler chooses. */
  readonly to?: string;
  readonly mode: MigrationMode;
  /** 0: the container's own budget. */
  readonly blackoutBudgetMs: number;
  /** What the image stream may take of the link; 0 or absent: what the agents are configured with. */
  readonly bandwidthBytesPerSecond?: number;
  /** operator | drain | balance */
  readonly reason: string;
  /** What the source's agent expects of the move. */
  readonly predicted?: MigrationForecast;
}

export interface MovePlan {
  readonly from: string;
  readonly to: string;
  readonly mode: MigrationMode;
  /** The request's, or the container's own; 0: none. */
  readonly blackoutBudgetMs: number;
  /** 0: what the source's agent is configured with. */
  readonly bandwidthBytesPerSecond: number;
}

export interface NodeRemoval {
  /** Names of those that go on as they were frozen, at the host that they were about to leave. */
  readonly returned: readonly string[];
  /** Names of those that are placed and started anew. */
  readonly placedAnew: readonly string[];
}

/**
 * Every method that changes something resolves once the change is in the log, and rejects with a GodwitError; with
 * `unavailable` where another scheduler leads.
 */
export interface Scheduler extends AsyncDisposable, FailoverOperations, CheckpointOperations, Maintenance {
  readonly id: string;
  /** As far as it knows: see `confirm`. */
  readonly leads: boolean;
  status(): SchedulerStatus;
  /** SHA-256 in hexadecimal of the canonical state as it is. Walks all of it: seconds, where there is much. */
  stateHash(): string;
  state(): DeepReadonlyState;
  /** By id. */
  schedulers(): readonly SchedulerMember[];
  /** Rejects with `unavailable` while the log cannot be asked. */
  servers(): Promise<readonly LogServer[]>;
  /**
   * Resolves when it was certain, at a moment since the call, that this scheduler leads: what `state` then says was not
   * out of date when the call was made. Rejects with `unavailable` where another one leads.
   */
  confirm(): Promise<void>;
  /** Takes leadership, whoever has it. */
  lead(): Promise<void>;
  runtime(): Runtime;
  /** Undefined: there is no such container. */
  why(containerId: string): WhyView | undefined;
  readonly services: Services;
  readonly balancing: Balancing;
  readonly placement: PlacementScheduling;
  /** Yields (coalesced) after every change of state or runtime since the call, until the signal aborts. */
  changes(signal: AbortSignal): AsyncIterable<void>;

  addImage(image: Image): Promise<void>;
  removeImage(name: string): Promise<void>;

  /** `spec.imageDigest` is resolved from `spec.image`. Without room the container is recorded and waits for it. */
  createContainer(spec: ContainerSpec): Promise<Pick<Container, "id">>;
  setDesired(containerId: string, action: "start" | "stop" | "restart"): Promise<void>;
  /** Returns when recorded; a running container without `force` is refused. */
  removeContainer(containerId: string, force: boolean): Promise<void>;

  /** Throws a GodwitError that says why when the move may not be made. */
  planMove(request: MoveRequest): MovePlan;
  startMigration(request: MoveRequest): Promise<Migration>;
  cancelMigration(id: string): Promise<void>;

  /** From now on the node is the one that has this stream key, whatever it had before. */
  trustNodeKey(node: string, key: Uint8Array): Promise<void>;
  setSchedulable(node: string, schedulable: boolean): Promise<void>;
  /** Forgets a lost node. One that has containers is refused unless somebody knows that it `isOff`. */
  removeNode(node: string, isOff: boolean): Promise<NodeRemoval>;

  events(options: { sinceMs: number; follow: boolean; signal: AbortSignal }): AsyncIterable<Event>;
}
