/**
 * The one error class that crosses parts. `code` is stable and meant for programs; `message` says what
 * happened and what to do, on one line.
 */
export const ERROR_CODES = [
  "invalid", // the request itself is wrong
  "not-found",
  "exists",
  "refused", // a safety rule, a budget or a precondition said no
  "exhausted", // no room
  "unavailable", // a part cannot be reached right now
  "deadline",
  "cancelled",
  "corrupt", // data failed its check
  "internal",
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];

export const isErrorCode = (text: string): text is ErrorCode =>
  (ERROR_CODES as readonly string[]).includes(text);

export class GodwitError extends Error {
  override readonly name = "GodwitError";
  readonly code: ErrorCode;
  readonly retryable: boolean;
  /** Where the same call may succeed: addresses of the API of the scheduler that leads. */
  readonly elsewhere: readonly string[] | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; retryable?: boolean; elsewhere?: readonly string[] } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.elsewhere = options.elsewhere;
    this.retryable = options.retryable ?? code === "unavailable";
  }

  static from(value: unknown, code: ErrorCode = "internal"): GodwitError {
    if (value instanceof GodwitError) return value;
    if (value instanceof Error) {
      if (value.name === "AbortError") return new GodwitError("cancelled", value.message, { cause: value });
      return new GodwitError(code, value.message, { cause: value });
    }
    return new GodwitError(code, String(value));
  }
}
