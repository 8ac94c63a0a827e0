/**
 * Runs inside a host of the bench's cluster, in a mount namespace of its own, and runs the programs that the baselines
 * consist of: a line of JSON (HostCommand) on standard input, a line of JSON (HostAnswer) back. A process that stays,
 * since entering a host anew for each command would cost time within the stall that is measured.
 *
 * Run as: unshare --mount --propagation private node host-runner.ts SCRATCH
 */
import { spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

import type { HostAnswer, HostCommand } from "./bench-host.ts";

const scratch = process.argv[2] ?? "/run/bench";

function mount(...args: string[]): void {
  const { status, stderr, error } = spawnSync("mount", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`mount ${args.join(" ")}: ${error?.message ?? stderr.trim()}`);
}

/**
 * The machine's files become read-only here: a runc that cleans up after a failed restore deletes what is below its
 * mounts (it binds the container's root at `<state>/<id>/criu-root`), and nothing of that may be the machine's. What must be written is in memory.
 */
function protectMachine(): void {
  // CRIU works in /tmp, whatever TMPDIR says.
  for (const folder of ["/tmp", "/var/lib/containers", "/var/lib/cni", "/etc/cni"])
    if (existsSync(folder)) mount("-t", "tmpfs", "tmpfs", folder);
  mount("-o", "remount,bind,ro", "/");
  mkdirSync(scratch, { recursive: true });
}

/** This host's alone: it has a network namespace of its own. */
function forwardPackets(): void {
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
}

async function run(command: HostCommand): Promise<HostAnswer> {
  const startedAt = performance.now();
  const [program = "", ...args] = command.argv;
  // Files, not pipes: what stays behind (conmon) would keep a pipe open.
  const paths = { stdout: `${scratch}/stdout`, stderr: `${scratch}/stderr` };
  const isQuiet = command.isQuiet === true;
  const stdout = openSync(isQuiet ? "/dev/null" : paths.stdout, "w");
  const stderr = openSync(isQuiet ? "/dev/null" : paths.stderr, "w");
  let code: number;
  try {
    code = await new Promise<number>((resolve, reject) => {
      const child = spawn(program, args, {
        stdio: ["ignore", stdout, stderr],
        env: { ...process.env, ...command.env },
        timeout: command.timeoutMs ?? 120_000,
        killSignal: "SIGKILL",
      });
      child.once("error", reject);
      child.once("exit", (exit) => resolve(exit ?? 128));
    });
  } finally {
    closeSync(stdout);
    closeSync(stderr);
  }
  const read = (path: string): string => (isQuiet ? "" : readFileSync(path, "utf8").slice(-4096));
  return {
    code,
    elapsedMs: performance.now() - startedAt,
    stdout: read(paths.stdout),
    stderr: read(paths.stderr),
  };
}

protectMachine();
forwardPackets();
for await (const line of createInterface({ input: process.stdin })) {
  let answer: HostAnswer;
  try {
    answer = await run(JSON.parse(line) as HostCommand);
  } catch (error) {
    const stderr = error instanceof Error ? error.message : String(error);
    answer = { code: 127, elapsedMs: 0, stdout: "", stderr };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
