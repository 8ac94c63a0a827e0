/** What the rest of Godwit sees of the balancer, and of the loads that it works with. */
import type { ObservedAllocation } from "../proto/gen/godwit/v1/agent.ts";
import type { BalanceNode } from "../proto/gen/godwit/v1/api.ts";
import type { Migration } from "../proto/gen/godwit/v1/log.ts";
import type { BalanceAdvice, BalanceSettings } from "../proto/gen/godwit/v1/spec.ts";
import type { ContainerLoad, NodeUsage } from "./plan/balance/load.ts";

export interface BalanceView {
  readonly settings: Readonly<BalanceSettings>;
  /** Why it has paused itself; empty: it has not. */
  readonly pausedReason: string;
  readonly pausedAtMs: number;
  /** Why nothing (more) is moved now. */
  readonly idleBecause: readonly string[];
  /** How far the hottest node is above the mean. */
  readonly imbalance: number;
  readonly meanLoad: number;
  /** Hottest first. */
  readonly nodes: readonly BalanceNode[];
  readonly advice: readonly BalanceAdvice[];
  readonly advisedAtMs: number;
  /** Moves that the balancer has made, newest first. */
  readonly moves: readonly Migration[];
  readonly missesInARow: number;
}

export interface BalanceProposal {
  readonly moves: readonly BalanceAdvice[];
  /** Why there are not more. */
  readonly idleBecause: readonly string[];
}

export interface Balancing {
  status(): BalanceView;
  /** Takes over the named fields; the others stay. Ends a pause. */
  set(settings: BalanceSettings, fields: readonly string[]): Promise<void>;
  /** What would be moved now, without waiting for an imbalance to hold. */
  plan(): BalanceProposal;
  /** Starts what `plan` says; `migrationIds` are in the order of its moves. */
  run(): Promise<BalanceProposal & { readonly migrationIds: readonly string[] }>;
  /** Of a container as its node last reported it; undefined: it has not. */
  usageOf(
    containerId: string,
  ): { readonly observed: ObservedAllocation; readonly load: ContainerLoad | undefined } | undefined;
  nodeUsage(name: string): NodeUsage | undefined;
}
