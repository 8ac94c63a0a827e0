/** What the rest of Godwit sees of services: `scheduler.services`. */
import type { ServiceSpec } from "../proto/gen/godwit/v1/service.ts";

export interface ServiceApplication {
  readonly spec: ServiceSpec;
  /** The version that the change was decided on; 0: there was none. Absent: whatever it is. */
  readonly expectedVersion?: number;
}

export type ServiceChangeKind = "scale" | "in-place" | "rolling" | "resume";

export interface ServicePlan {
  readonly name: string;
  readonly action: "create" | "update" | "none";
  readonly how: readonly ServiceChangeKind[];
  /** Before the change; 0: there was none. */
  readonly version: number;
  readonly before?: ServiceSpec;
  /** With the digest of its image. */
  readonly after: ServiceSpec;
}

/** Every method that changes something resolves once the change is in the log, and rejects with a GodwitError. */
export interface Services {
  /** What applying would change. Throws what applying would. */
  plan(applications: readonly ServiceApplication[]): ServicePlan[];
  /** All of them or none. */
  apply(applications: readonly ServiceApplication[]): Promise<ServicePlan[]>;
  scale(name: string, replicas: number): Promise<void>;
  /** Revision 0: the one before the present one. */
  rollBack(name: string, revision: number): Promise<void>;
  /** Returns when recorded; the service is gone when its containers are. */
  remove(name: string): Promise<void>;
  /** Ids of its containers, those included that are on their way out. */
  containersOf(name: string): readonly string[];
  /** How many more of its containers may be made unavailable now. */
  disruptionsAllowed(name: string): number;
  /** Why containers that it lacks cannot be made at all; empty: they can. */
  obstacle(name: string): string;
  /** Whether a container does its work, as far as the log knows, and is to go on with it. */
  isAvailable(containerId: string): boolean;
}
