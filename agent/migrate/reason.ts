import { GodwitError } from "../../proto/contract/error.ts";
import type { ContainerRuntime } from "../container/runtime.ts";
import type { InitProcess } from "../model/record.ts";

/** Of all that fails in a row, what failed first. */
export function reasonOf(
  error: unknown,
  signal: AbortSignal,
  runtime: ContainerRuntime,
  init: InitProcess,
): unknown {
  const cause: unknown = signal.aborted ? signal.reason : error;
  return runtime.isRunning(init)
    ? cause
    : new GodwitError("unavailable", "the container ended during the move", { cause });
}

/** As the other end is to say it. */
export const told = (value: unknown): string => {
  const { code, message } = GodwitError.from(value);
  return code === "refused" ? `refused: ${message}` : message;
};
