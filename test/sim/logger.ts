/** What processes log is a part of the trace; a scheduler's error is a violation where none can be anybody else's fault. */
import type { Logger } from "pino";
import { context } from "./context.ts";

type Line = (given: unknown, message?: string) => void;

const cause = (given: unknown): string => {
  if (typeof given === "string") return given;
  if (typeof given !== "object" || given === null) return "";
  const { err, ...rest } = given as { err?: unknown };
  const why = err instanceof Error ? `: ${err.message}` : "";
  return `${why} ${JSON.stringify(rest, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value))}`;
};

/** @param onError told of every line at that level */
export const loggerOf = (
  name: string,
  onError: (text: string, error: unknown) => void = () => undefined,
): Logger => {
  const line =
    (level: string): Line =>
    (given, message = "") => {
      const text = `${message}${cause(given)}`;
      context().world.trace(`${name} ${level}: ${text}`);
      if (level === "error" || level === "fatal")
        onError(text, typeof given === "object" && given !== null && "err" in given ? given.err : undefined);
    };
  const logger = {
    trace: () => undefined,
    debug: () => undefined,
    info: line("info"),
    warn: line("warn"),
    error: line("error"),
    fatal: line("fatal"),
    child: () => logger,
    level: "info",
  };
  return logger as unknown as Logger;
};
