/** Emptying nodes and giving them back what they had: a part of the scheduler's public face. */
import type { DrainItem, DrainPlanItem } from "../proto/gen/godwit/v1/api.ts";
import type { PlannedMove } from "../proto/gen/godwit/v1/log.ts";

export interface DrainProgress {
  readonly node: string;
  readonly state: "planned" | "draining" | "drained" | "returning" | "returned" | "failed" | "cancelled";
  readonly moved: readonly DrainItem[];
  readonly failed: readonly DrainItem[];
  readonly remaining: readonly DrainItem[];
  readonly totalMs: number;
  readonly error: string;
  /** Of a plan: what is to become of each container, by name, without forecasts. */
  readonly plan: readonly DrainPlanItem[];
}

export interface DrainOptions {
  readonly node: string;
  /** Milliseconds from now; 0: none. */
  readonly deadlineMs: number;
  /** Containers moved at a time; 0: the default. */
  readonly parallel: number;
  /** Of those, to any one other node; 0 or absent: the default. */
  readonly perLink?: number;
  /**
   * Also containers whose migration policy forbids it; and what can neither be moved live nor be started elsewhere is
   * stopped in the end.
   */
  readonly force: boolean;
  /** The node remembers what is moved off it, for a return. */
  readonly evacuate?: boolean;
  /** Targets of the plan that was shown, which are kept to as long as they fit. */
  readonly plan?: readonly PlannedMove[];
}

export interface ReturnOptions {
  readonly node: string;
  /** 0: the default. */
  readonly parallel: number;
  readonly perLink: number;
}

export interface Maintenance {
  planDrain(node: string, options?: Partial<Pick<DrainOptions, "deadlineMs" | "force">>): DrainProgress;
  startDrain(options: DrainOptions): Promise<void>;
  /** Moves that are under way come to their end. */
  cancelDrain(node: string): Promise<void>;
  /** Of the running or the last drain. */
  drainProgress(node: string): DrainProgress | undefined;

  planReturn(node: string): DrainProgress;
  /** Uncordons the node and moves back what was evacuated from it. */
  startReturn(options: ReturnOptions): Promise<void>;
  cancelReturn(node: string): Promise<void>;
  /** Of the running or the last return. */
  returnProgress(node: string): DrainProgress | undefined;
}
