import type { ErrorCode } from "../../../proto/contract/error.ts";
import type { Demand, Spot } from "./demand.ts";

/** Why one node does not take a container. */
export interface Obstacle {
  readonly code: ErrorCode;
  /** A whole sentence, with the node's name and what an operator can do. */
  readonly message: string;
  /** The same of many nodes: what is equal here is counted together. "1 of 3 <one>", "2 of 3 <many>". */
  readonly one: string;
  readonly many: string;
  /** Of a resource that is short. */
  readonly free?: { readonly amount: number; readonly text: string };
  /** The message says it better than a count. */
  readonly particular?: boolean;
}

/** One rule about which nodes take a container. */
export interface Filter {
  readonly kind: string;
  /** Whether it can say no to this demand at all. */
  readonly concerns: (demand: Demand) => boolean;
  /** Asked of every node, so it makes nothing. */
  readonly blocks: (demand: Demand, spot: Spot) => boolean;
  /** Asked only where somebody wants to know. Empty: it does not block. */
  readonly obstacles: (demand: Demand, spot: Spot) => readonly Obstacle[];
}
