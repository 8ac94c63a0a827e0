import { spawn } from "node:child_process";

import { GodwitError } from "../../proto/contract/error.ts";

const TIMEOUT_MS = 30_000;

/** Runs a program (never through a shell) to its end and answers what it wrote. An exit code but 0 is an error. */
export async function run(
  program: string,
  args: readonly string[],
  signal?: AbortSignal,
  input?: string,
  timeoutMs = TIMEOUT_MS,
): Promise<string> {
  const timeout = AbortSignal.timeout(timeoutMs);
  const child = spawn(program, args, {
    stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    signal: signal === undefined ? timeout : AbortSignal.any([timeout, signal]),
    killSignal: "SIGKILL",
  });
  let output = "";
  let errors = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (output += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (errors += text));
  child.stdin?.on("error", () => undefined); // it ended before it had read all: its exit code tells
  child.stdin?.end(input);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", (cause: NodeJS.ErrnoException) => {
      if (timeout.aborted)
        reject(new GodwitError("deadline", `${program} ${args.join(" ")} did not end in time`, { cause }));
      else if (cause.code === "ENOENT") {
        reject(new GodwitError("unavailable", `${program} is not installed; run deploy/setup.sh`, { cause }));
      } else reject(GodwitError.from(cause));
    });
    child.once("close", resolve);
  });
  if (code === 0) return output;
  const said = (errors.trim() || output.trim()).split("\n").slice(-2).join(" | ");
  throw new GodwitError("internal", `${program} ${args.join(" ")} failed: ${said}`);
}
