/** What the rest of Godwit sees of placing: a part of public.ts. */
import type { ContainerSpec, PlacementStrategy } from "../proto/gen/godwit/v1/spec.ts";
import type { PlacementView } from "./plan/placement/view.ts";

/** Of all containers of a project together; as a limit, 0: none. */
export interface ProjectShare {
  readonly memoryBytes: number;
  readonly cpuMillis: number;
  readonly containers: number;
  readonly diskBytes: number;
}
export interface ProjectView {
  readonly name: string;
  readonly limits: ProjectShare;
  readonly used: ProjectShare;
}

export interface PlacementScheduling {
  /** Where `createContainer` would have it placed now. Throws what `createContainer` would. */
  planPlacement(spec: ContainerSpec): PlacementView;
  setNodeLabels(
    node: string,
    set: { readonly [key: string]: string },
    remove: readonly string[],
  ): Promise<void>;
  /** Those with limits or containers, by name. */
  projects(): ProjectView[];
  /** Absent: stays as it is. */
  setProject(name: string, limits: Partial<ProjectShare>): Promise<ProjectView>;
  /** Lifts its limits. */
  removeProject(name: string): Promise<void>;
  setPlacementDefault(strategy: PlacementStrategy): Promise<void>;
}
