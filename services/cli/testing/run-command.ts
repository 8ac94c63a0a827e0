import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The `godwit` command as a process of its own, to its end. */
export async function runCommand(
  argv: readonly string[],
  options: {
    /** What GODWIT_API says; undefined: what it says here. */
    readonly api?: string;
    readonly stdin?: Buffer;
    readonly timeoutMs: number;
  },
): Promise<CommandResult> {
  const { api, stdin, timeoutMs } = options;
  const child = spawn(process.execPath, [MAIN, ...argv], {
    env: { ...process.env, ...(api === undefined ? {} : { GODWIT_API: api }) },
    timeout: timeoutMs,
  });
  const read = async (stream: AsyncIterable<Buffer>): Promise<string> =>
    Buffer.concat(await Array.fromAsync(stream)).toString();
  const { promise: closed, resolve } = Promise.withResolvers<number | null>();
  child.on("close", resolve);
  child.stdin.on("error", () => undefined).end(stdin);
  const [stdout, stderr, code] = await Promise.all([read(child.stdout), read(child.stderr), closed]);
  return { code, stdout, stderr };
}
