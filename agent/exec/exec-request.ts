import { isAbsolute } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";
import type { ExecOpen } from "../../proto/gen/godwit/v1/agent.ts";
import { resolveUser } from "../container/rootfs.ts";
import { runCommand } from "../native/command.ts";
import { checkOutputSubject } from "./output-subject.ts";
import type { OciProcess } from "./runc-exec.ts";

export interface ExecDefaults {
  readonly env: readonly string[];
  readonly cwd: string;
  readonly user?: string;
}

/** Throws `invalid` with what is wrong. */
export function checkRequest(open: ExecOpen): void {
  const invalid = (what: string): never => {
    throw new GodwitError("invalid", what);
  };
  checkOutputSubject(open.outputSubject);
  if (open.command.length === 0 || open.command[0] === "") invalid("there is no command to run");
  if (open.workingDir !== "" && !isAbsolute(open.workingDir)) {
    invalid(`the working directory '${open.workingDir}' is not an absolute path`);
  }
  for (const key of Object.keys(open.env)) {
    if (key === "" || key.includes("=")) invalid(`'${key}' cannot be the name of an environment variable`);
  }
  const texts = [
    ...open.command,
    open.workingDir,
    open.user,
    ...Object.keys(open.env),
    ...Object.values(open.env),
  ];
  if (texts.some((text) => text.includes("\0"))) invalid("a zero byte is in the command or its environment");
}

export async function processOf(
  open: ExecOpen,
  defaults: ExecDefaults,
  initPid: () => Promise<number>,
): Promise<OciProcess> {
  const user = open.user || (defaults.user ?? "");
  const env = new Map<string, string>(open.tty ? [["TERM", "xterm"]] : []);
  for (const entry of defaults.env) {
    const at = entry.indexOf("=");
    if (at > 0) env.set(entry.slice(0, at), entry.slice(at + 1));
  }
  for (const [key, value] of Object.entries(open.env)) env.set(key, value);
  return {
    terminal: open.tty,
    ...(open.tty ? { consoleSize: { height: open.rows || 24, width: open.columns || 80 } } : {}),
    user:
      user === ""
        ? { uid: 0, gid: 0, additionalGids: [] }
        : await resolveUser(`/proc/${await initPid()}/root`, user),
    args: open.command,
    env: [...env].map(([key, value]) => `${key}=${value}`),
    cwd: open.workingDir || defaults.cwd || "/",
    noNewPrivileges: true,
  };
}

/** The container's init, as runc knows it. */
export async function initPidOf(
  runcPath: string,
  runcArguments: readonly string[],
  containerId: string,
  signal: AbortSignal,
): Promise<number> {
  const { code, stdout, stderr } = await runCommand(runcPath, [...runcArguments, "state", containerId], {
    signal,
  });
  if (code !== 0)
    throw new GodwitError("unavailable", `runc knows no running container here: ${stderr.trim()}`);
  const { pid } = JSON.parse(stdout) as { pid: number };
  if (pid <= 0) throw new GodwitError("refused", "the container is not running");
  return pid;
}
