/**
 * What an agent and its shim say to each other: JSON objects, one a line, on the unix socket
 * <stateDir>/shim.sock. A request {id, op, …} is answered by {id, ok: true, …} or {id, ok: false, error}.
 * Events carry no id and go to every connection.
 */
import type { ErrorCode } from "../../proto/contract/error.ts";

export const SHIM_SOCKET = "shim.sock";

/** Bytes of lines that have no end yet, in base64. */
export interface PartialLines {
  readonly o: string;
  readonly e: string;
}

export interface RecordedExit {
  /** As a shell tells it: the exit status, or 128 + the signal's number; UNKNOWN_EXIT_CODE when nobody saw it. */
  readonly code: number;
  /** The signal's number; 0 for an ordinary exit. */
  readonly signal: number;
  readonly atMs: number;
}
/** The init died while it was no child of the shim (the shim had been killed and started again). */
export const UNKNOWN_EXIT_CODE = -1;

export interface AttachRequest {
  readonly op: "attach";
  readonly container: string;
  /** Folder of the log and of exit.json. */
  readonly dir: string;
  /** 0: not known yet; setInit tells it later. */
  readonly initPid: number;
  /** Start time of the init in clock ticks since boot, where the caller knows it. */
  readonly startTicks?: number;
  /** Paths that open the read ends of pipes, such as /proc/PID/fd/N; "" for none. */
  readonly stdout: string;
  readonly stderr: string;
  /** What detach handed back. Left out: what this shim remembers of its own last detach of this container. */
  readonly partial?: PartialLines;
}
export interface SetInitRequest {
  readonly op: "setInit";
  readonly container: string;
  readonly initPid: number;
  readonly startTicks?: number;
}
interface DetachRequest {
  readonly op: "detach";
  readonly container: string;
}
interface StatusRequest {
  readonly op: "status";
}
export type ShimRequest = AttachRequest | SetInitRequest | DetachRequest | StatusRequest;

export interface AttachAnswer {
  /** End of the container's log in bytes since its creation. */
  readonly offset: number;
}
export interface DetachAnswer {
  readonly partial: PartialLines;
  readonly offset: number;
}
export interface ContainerStatus {
  readonly container: string;
  readonly initPid: number;
  readonly exit?: RecordedExit;
}
interface StatusAnswer {
  readonly containers: readonly ContainerStatus[];
}

export interface ExitEvent extends RecordedExit {
  readonly event: "exit";
  readonly container: string;
  readonly initPid: number;
}
/** First line of every connection. */
export interface HelloEvent {
  readonly event: "hello";
  readonly shimPid: number;
  readonly startedAtMs: number;
}
export type ShimEvent = ExitEvent | HelloEvent;

export type ShimAnswer =
  | ({ readonly id: number; readonly ok: true } & Partial<AttachAnswer & DetachAnswer & StatusAnswer>)
  | { readonly id: number; readonly ok: false; readonly error: string; readonly code: ErrorCode };
