import type { ErrorCode } from "../../proto/contract/error.ts";

/** Why a command changed nothing. */
export interface Rejection {
  readonly code: ErrorCode;
  readonly message: string;
}
export const reject = (code: ErrorCode, message: string): Rejection => ({ code, message });
/** What `apply` returns: undefined when the command has taken effect. */
export type Outcome = Rejection | undefined;

export interface ApplyContext {
  readonly atMs: number;
  /** Of the leader that appended the entry. */
  readonly epoch: number;
}
