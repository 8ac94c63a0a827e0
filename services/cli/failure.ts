/** How the command ends when something went wrong: one line on standard error, and an exit code that scripts rely on. */
import { GodwitError } from "../../proto/contract/error.ts";

export const EXIT = { done: 0, failed: 1, usage: 2, refused: 3, changes: 4, interrupted: 130 } as const;

/** Ends the command with `exitCode`; an empty message says that everything was said already. */
export class ExitWith extends Error {
  override readonly name = "ExitWith";
  readonly exitCode: number;

  constructor(exitCode: number, message = "") {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Codes of gRPC's status that this command tells apart (https://grpc.io/docs/guides/status-codes/). */
export const GRPC = {
  cancelled: 1,
  invalidArgument: 3,
  notFound: 5,
  resourceExhausted: 8,
  failedPrecondition: 9,
  unimplemented: 12,
  unavailable: 14,
} as const;

/** The part of grpc-js's ServiceError that is looked at here, so that this file does not load the library. */
export interface CallFailure {
  readonly code: number;
  details: string;
  readonly metadata?: { get(key: string): unknown[] };
}

export function isCallFailure(value: unknown): value is CallFailure {
  return (
    value instanceof Error &&
    "code" in value &&
    typeof value.code === "number" &&
    "details" in value &&
    typeof value.details === "string"
  );
}

/** True when the API itself said so, false when the call did not get that far. */
export const fromApi = (failure: CallFailure): boolean =>
  (failure.metadata?.get("godwit-code").length ?? 0) > 0;

/** The scheduler stands by while another one leads: the call was not begun. Where the leader is, as far as it said. */
export function leaderElsewhere(value: unknown): readonly string[] | undefined {
  if (!isCallFailure(value) || (value.metadata?.get("godwit-standby").length ?? 0) === 0) return undefined;
  const [where] = value.metadata?.get("godwit-leader") ?? [];
  return typeof where === "string" ? where.split(",") : [];
}

/** The API could not be reached, or went away: the same call may succeed in a moment. */
export const isUnreachable = (value: unknown): boolean =>
  isCallFailure(value) && value.code === GRPC.unavailable;

export function ending(value: unknown, address: string | undefined): { exitCode: number; line: string } {
  if (value instanceof ExitWith) return { exitCode: value.exitCode, line: value.message };
  if (isCallFailure(value)) return callEnding(value, address);
  if (value instanceof GodwitError)
    return { exitCode: value.code === "invalid" ? EXIT.usage : EXIT.failed, line: value.message };
  if (value instanceof Error) return { exitCode: EXIT.failed, line: value.message };
  return { exitCode: EXIT.failed, line: String(value) };
}

function callEnding(failure: CallFailure, address: string | undefined): { exitCode: number; line: string } {
  const { code, details } = failure;
  if (code === GRPC.failedPrecondition || code === GRPC.resourceExhausted)
    return { exitCode: EXIT.refused, line: details };
  if (code === GRPC.unavailable && !fromApi(failure)) {
    const line = `the API at ${address?.replaceAll(",", " or ") ?? "its address"} cannot be reached; is the cluster up? 'godwit dev up' starts one on this machine, 'godwit dev start' what has died of it, --api names another (${details.replace(/\s*Resolution note:\s*$/, "")})`;
    return { exitCode: EXIT.failed, line };
  }
  if (code === GRPC.unimplemented && !fromApi(failure)) {
    return {
      exitCode: EXIT.failed,
      line: `the API at ${address ?? "its address"} does not know this call; is it of an older version?`,
    };
  }
  return {
    exitCode: EXIT.failed,
    line: details === "" ? `the call failed with gRPC status ${code}` : details,
  };
}
