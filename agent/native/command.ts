import { spawn, type StdioOptions } from "node:child_process";

import { GodwitError } from "../../proto/contract/error.ts";

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly signal?: AbortSignal;
  /** Default 30,000. */
  readonly timeoutMs?: number;
  /** Text for standard input; without it, standard input is empty. */
  readonly input?: string;
  /** A descriptor for standard input. */
  readonly inputDescriptor?: number;
  /** Descriptors for standard output and error in place of captured text. */
  readonly outputDescriptors?: readonly [stdout: number, stderr: number];
  readonly environment?: Readonly<Record<string, string>>;
}

const CAPTURE_BYTES = 1024 * 1024;

/** Runs a program (never through a shell) and answers whatever its exit code was. */
export async function runCommand(
  path: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const timeout = AbortSignal.timeout(options.timeoutMs ?? 30_000);
  const signal = options.signal === undefined ? timeout : AbortSignal.any([timeout, options.signal]);
  const stdio: StdioOptions = [
    options.inputDescriptor ?? (options.input === undefined ? "ignore" : "pipe"),
    options.outputDescriptors?.[0] ?? "pipe",
    options.outputDescriptors?.[1] ?? "pipe",
  ];
  const child = spawn(path, args, {
    stdio,
    signal,
    killSignal: "SIGKILL",
    cwd: "/",
    ...(options.environment === undefined ? {} : { env: { ...process.env, ...options.environment } }),
  });
  const collect = (stream: NodeJS.ReadableStream | null): { text: string } => {
    const collected = { text: "" };
    stream?.setEncoding("utf8");
    stream?.on("data", (piece: string) => {
      if (collected.text.length < CAPTURE_BYTES) collected.text += piece;
    });
    return collected;
  };
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  if (options.input !== undefined) {
    child.stdin?.on("error", () => undefined); // a program that exits early has not read it all
    child.stdin?.end(options.input);
  }
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", (cause) => {
      if (timeout.aborted) {
        reject(new GodwitError("deadline", `${path} ${args[0] ?? ""} did not end in time`, { cause }));
      } else reject(GodwitError.from(cause));
    });
    // Not "close": a container that is started by runc keeps the descriptors of its parent.
    child.once(options.outputDescriptors === undefined ? "close" : "exit", (exit, killedBy) => {
      if (exit === null && signal.aborted) return; // "error" tells
      resolve(exit ?? 128 + (killedBy === null ? 0 : 9));
    });
  });
  return { code, stdout: stdout.text, stderr: stderr.text };
}

/** Like runCommand, but an exit code other than 0 is an error that carries what the program said. */
export async function mustRun(
  path: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const result = await runCommand(path, args, options);
  if (result.code !== 0) {
    const said = (result.stderr.trim() || result.stdout.trim()).split("\n").slice(-3).join(" | ");
    throw new GodwitError("internal", `${path} ${args.slice(0, 3).join(" ")}: exit ${result.code}: ${said}`);
  }
  return result;
}
