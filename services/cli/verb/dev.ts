/** `dev …`: handed to services/dev as it is, which is a program of its own. */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { ExitWith } from "../failure.ts";

const MAIN = fileURLToPath(new URL("../../dev/main.ts", import.meta.url));

/** Ends the command with the exit code of what it started. */
export async function dev(args: readonly string[]): Promise<never> {
  const child = spawn(process.execPath, [...process.execArgv, MAIN, ...args], { stdio: "inherit" });
  // The terminal sends Ctrl-C to both; what it means is the child's to decide.
  const ignore = (): void => undefined;
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on("SIGINT", ignore);
  process.on("SIGTERM", forward);
  process.on("SIGHUP", forward);
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.on("error", (error) =>
    reject(new Error(`services/dev cannot be started: ${error.message}`, { cause: error })),
  );
  child.on("exit", (code, signal) =>
    resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
  );
  throw new ExitWith(await promise);
}
