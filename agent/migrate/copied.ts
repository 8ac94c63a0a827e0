import type { PageLedger } from "./page-ledger.ts";
import type { TreeState } from "./tree-copy.ts";

/** What a copy of a container has brought to where it went, so that a later one can bring what differs from it. */
export interface Copied {
  readonly ledger: PageLedger;
  /** By name. */
  readonly trees: ReadonlyMap<string, TreeState>;
  /** Where its log ended. */
  readonly logOffset: number;
}
