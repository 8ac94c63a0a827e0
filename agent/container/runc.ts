import { closeSync } from "node:fs";
import { readFile, rename, rm, writeFile } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { type CommandResult, mustRun, runCommand } from "../native/command.ts";
import { openPipe } from "../native/sockets.ts";

export type RuncStatus = "creating" | "created" | "running" | "paused" | "stopped";

/** Drives the runc program. Containers are known to it by their id below `root`. */
export class Runc {
  readonly path: string;
  readonly root: string;
  readonly #logFile: string;

  constructor(path: string, root: string) {
    this.path = path;
    this.root = root;
    this.#logFile = `${root}/runc.log`;
  }

  get globalArguments(): readonly string[] {
    return ["--root", this.root, "--log", this.#logFile];
  }

  async version(): Promise<string> {
    const { stdout } = await mustRun(this.path, ["--version"]);
    return /runc version (\S+)/.exec(stdout)?.[1] ?? "unknown";
  }

  /**
   * Creates the container with `descriptors` as its output; its init waits for `start`. Answers the init's
   * pid. The init is a child of nobody then: the host's shim, a subreaper, becomes its parent.
   */
  async create(
    id: string,
    bundle: string,
    descriptors: readonly [number, number],
    signal: AbortSignal,
  ): Promise<number> {
    const pidFile = `${bundle}/init.pid`;
    // Its standard input is at its end. The host's /dev/null would say so too, but is not in the container's mounts,
    // and so not to be found again at a checkpoint.
    const [inputDescriptor, writeEnd] = openPipe();
    closeSync(writeEnd);
    let result: CommandResult;
    try {
      result = await runCommand(
        this.path,
        [...this.globalArguments, "create", "--bundle", bundle, "--pid-file", pidFile, id],
        { inputDescriptor, outputDescriptors: descriptors, signal },
      );
    } finally {
      closeSync(inputDescriptor);
    }
    if (result.code !== 0) throw new GodwitError("internal", `runc create: ${await this.#lastError()}`);
    return Number(await readFile(pidFile, "utf8"));
  }

  /** Waits for the init, and as long as that stands still. */
  async start(id: string, signal: AbortSignal): Promise<void> {
    await mustRun(this.path, [...this.globalArguments, "start", id], { signal });
  }

  /** Undefined when runc knows no such container. */
  async state(id: string): Promise<{ status: RuncStatus; pid: number } | undefined> {
    const { code, stdout } = await runCommand(this.path, [...this.globalArguments, "state", id]);
    if (code !== 0) return undefined;
    const parsed = JSON.parse(stdout) as { status: RuncStatus; pid: number };
    return { status: parsed.status, pid: parsed.pid };
  }

  async kill(id: string, signal: number): Promise<void> {
    await runCommand(this.path, [...this.globalArguments, "kill", id, String(signal)]);
  }

  /** Forgets a container whose processes are gone and whose mounts have been taken away. */
  async forget(id: string): Promise<void> {
    // Not `runc delete`: it deletes recursively below its state folder, whatever is mounted there.
    await rm(`${this.root}/${id}/state.json`, { force: true });
    await rm(`${this.root}/${id}/exec.fifo`, { force: true });
    await rm(`${this.root}/${id}/notify.sock`, { force: true });
    const { code, stderr } = await runCommand("rmdir", ["--ignore-fail-on-non-empty", `${this.root}/${id}`]);
    if (code !== 0 && !stderr.includes("No such file")) {
      throw new GodwitError("internal", `runc's state folder of ${id} cannot be removed: ${stderr.trim()}`);
    }
  }

  /**
   * Makes runc take the process `pid` for the init of container `id`, which it created with another one: a
   * restored container lives in the cgroups of a placeholder that runc made on this host.
   */
  async adoptInit(id: string, pid: number, startTime: number, rootfs: string): Promise<void> {
    const file = `${this.root}/${id}/state.json`;
    const state = JSON.parse(await readFile(file, "utf8")) as {
      init_process_pid: number;
      init_process_start: number;
      namespace_paths: Record<string, string>;
      config: { rootfs: string; namespaces: { type: string; path: string }[] };
    };
    state.init_process_pid = pid;
    state.init_process_start = startTime;
    state.config.rootfs = rootfs;
    for (const [type, path] of Object.entries(state.namespace_paths)) {
      // runc writes /proc/<pid>/ns/<name> for each namespace that it made, and real paths for given ones.
      state.namespace_paths[type] = path.replace(/^\/proc\/\d+\/ns\//, `/proc/${pid}/ns/`);
    }
    await writeFile(`${file}.new`, JSON.stringify(state), { mode: 0o600 });
    await rename(`${file}.new`, file);
    // While it exists, runc believes that the init still waits for `runc start`.
    await rm(`${this.root}/${id}/exec.fifo`, { force: true });
  }

  async #lastError(): Promise<string> {
    const text = await readFile(this.#logFile, "utf8").catch(() => "");
    const line = text.trim().split("\n").at(-1) ?? "";
    return /msg="((?:[^"\\]|\\.)*)"/.exec(line)?.[1]?.replace(/\\"/g, '"') ?? (line || "no reason given");
  }
}
