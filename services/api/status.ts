/** The one place where a GodwitError becomes a gRPC status. */
import { Metadata, status } from "@grpc/grpc-js";
import { GodwitError, type ErrorCode } from "../../proto/contract/error.ts";

const STATUS_OF: { readonly [C in ErrorCode]: status } = {
  invalid: status.INVALID_ARGUMENT,
  "not-found": status.NOT_FOUND,
  exists: status.ALREADY_EXISTS,
  refused: status.FAILED_PRECONDITION,
  exhausted: status.RESOURCE_EXHAUSTED,
  unavailable: status.UNAVAILABLE,
  deadline: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  corrupt: status.DATA_LOSS,
  internal: status.INTERNAL,
};

/** A status's details travel in an HTTP/2 trailer, which gRPC peers bound at 8 KiB for all of them together. */
const DETAILS_LIMIT = 2048;

interface StatusError {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;
}

export function statusOf(error: GodwitError): StatusError {
  const metadata = new Metadata();
  metadata.set("godwit-code", error.code);
  if (error.retryable) metadata.set("godwit-retryable", "true");
  if (error.elsewhere !== undefined) {
    metadata.set("godwit-standby", "true");
    if (error.elsewhere.length > 0) metadata.set("godwit-leader", error.elsewhere.join(","));
  }
  return { code: STATUS_OF[error.code], details: oneLine(error.message), metadata };
}

/** Errors are promised to be one line, whatever a library put into its message. */
export function oneLine(message: string): string {
  const line = message.replace(/\s*[\r\n]+\s*/g, " ").trim();
  return line.length > DETAILS_LIMIT ? `${line.slice(0, DETAILS_LIMIT - 1)}…` : line;
}
