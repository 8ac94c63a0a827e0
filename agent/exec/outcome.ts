/** How an exec ended. `code` is the process's own, or 128 + the signal's number; `error` is empty then. */
export interface ExecOutcome {
  readonly code: number;
  readonly error: string;
}

/** By the convention of shells and container engines. */
const EXIT_NOT_FOUND = 127;
const EXIT_NOT_EXECUTABLE = 126;
const EXIT_NOT_STARTED = 125;
export const EXIT_KILLED = 137;

/** What runc's log (JSON, a line each) and its own exit code say of a command that never ran. Pure. */
export function describeFailure(log: string, code: number | null): ExecOutcome {
  const said = lastError(log);
  if (said === undefined) {
    return {
      code: EXIT_NOT_STARTED,
      error: `runc ended before the command ran (${code === null ? "killed" : `exit code ${code}`}) and said nothing`,
    };
  }
  const error = said.replace(/^exec failed: (unable to start container process: )?/, "");
  const subject = error.startsWith('exec: "');
  if (subject && /executable file not found|no such file or directory/.test(error)) {
    return { code: EXIT_NOT_FOUND, error };
  }
  return { code: subject ? EXIT_NOT_EXECUTABLE : EXIT_NOT_STARTED, error };
}

function lastError(log: string): string | undefined {
  for (const line of log.trim().split("\n").toReversed()) {
    try {
      const entry: unknown = JSON.parse(line);
      if (typeof entry !== "object" || entry === null) continue;
      if ("level" in entry && entry.level === "error" && "msg" in entry && typeof entry.msg === "string") {
        return entry.msg.replaceAll(/\s+/g, " ").trim();
      }
    } catch {
      continue; // a line that a killed runc did not finish
    }
  }
  return undefined;
}
