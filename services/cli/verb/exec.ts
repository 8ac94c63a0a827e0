/** `exec`: a command in a container, as if it ran here. */
import type { ClientDuplexStream } from "@grpc/grpc-js";
import type { ExecRequest, ExecResponse } from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import { messagesOf, untilWritable } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { RawTerminal } from "../raw-terminal.ts";
import { connectApi } from "../session.ts";
import { TerminalModes } from "../terminal-modes.ts";
import { write } from "./stream.ts";

export interface ExecOptions {
  readonly api?: string;
  readonly interactive: boolean;
  readonly tty: boolean;
  readonly env: { readonly [name: string]: string };
  readonly user: string;
  readonly workdir: string;
}

const STDIN_CHUNK_BYTES = 64 * 1024;

/** Ends the command with the exit code of what it ran. */
export async function exec(
  nameOrId: string,
  command: readonly string[],
  options: ExecOptions,
): Promise<never> {
  if (options.tty && !process.stdin.isTTY)
    throw new GodwitError(
      "invalid",
      "-t needs a terminal on standard input; leave it out when input comes from a pipe",
    );
  using api = await connectApi(options.api);
  await api.findLeader();
  const call = api.stub.exec();
  const interrupted = new AbortController();
  const onSignal = (): void => interrupted.abort();
  // In raw mode Ctrl-C is a byte for the command; without a terminal it ends the command.
  process.once("SIGINT", onSignal);
  process.once("SIGTERM", onSignal);
  process.once("SIGHUP", onSignal);
  using terminal = new RawTerminal(options.tty && options.interactive);
  const { rows, columns } = terminal.size;
  const start = {
    nameOrId,
    command: [...command],
    tty: options.tty,
    stdin: options.interactive,
    env: { ...options.env },
    user: options.user,
    workingDir: options.workdir,
    rows,
    columns,
  };
  call.write({ part: { $case: "start", value: start } });
  if (options.tty) terminal.onResize((size) => call.write({ part: { $case: "resize", value: size } }));
  if (options.interactive) void sendInput(call);
  const modes = new TerminalModes();
  let exitCode: number | undefined;
  try {
    for await (const { part } of messagesOf(call, interrupted.signal)) {
      if (part?.$case === "stdout") {
        if (options.tty) modes.take(part.value);
        await write(process.stdout, part.value);
      } else if (part?.$case === "stderr") await write(process.stderr, part.value);
      else if (part?.$case === "exitCode") exitCode = part.value;
    }
  } catch (error) {
    // What it ran had no time to put the terminal back, and the reason is to stand on a line of its own.
    if (options.tty) await write(process.stdout, Buffer.from(`${modes.undo()}\r\n`));
    if (interrupted.signal.aborted) throw new ExitWith(EXIT.interrupted);
    throw error;
  } finally {
    process.stdin.pause();
  }
  if (exitCode === undefined)
    throw new ExitWith(
      EXIT.failed,
      "the session ended without the command's exit code; it may still have run",
    );
  throw new ExitWith(exitCode & 0xff);
}

async function sendInput(call: ClientDuplexStream<ExecRequest, ExecResponse>): Promise<void> {
  try {
    for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
      for (let from = 0; from < chunk.length; from += STDIN_CHUNK_BYTES) {
        const value = chunk.subarray(from, from + STDIN_CHUNK_BYTES);
        if (call.destroyed) return;
        if (call.write({ part: { $case: "stdin", value } })) continue;
        await untilWritable(call);
      }
    }
    call.write({ part: { $case: "stdinClosed", value: true } });
    call.end();
  } catch (error) {
    // Our own input cannot be read: the command must not take that for its end.
    process.stderr.write(
      `godwit: standard input: ${error instanceof Error ? error.message : String(error)}\n`,
    );
    call.cancel();
  }
}
