import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { mustRun, runCommand } from "../../native/command.ts";
import { removeTree } from "../../native/remove-tree.ts";

const CAPABILITIES = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"];

/** A busybox container with a process that sleeps, in a folder of its own. */
export class TestContainer implements AsyncDisposable {
  readonly id = randomBytes(8).toString("hex");
  readonly folder: string;
  readonly runcArguments: readonly string[];

  private constructor(folder: string) {
    this.folder = folder;
    this.runcArguments = ["--root", join(folder, "runc"), "--log", join(folder, "runc.log")];
  }

  static async start(): Promise<TestContainer> {
    const container = new TestContainer(await mkdtemp(join(tmpdir(), "godwit-exec-")));
    try {
      await container.#run();
      return container;
    } catch (error) {
      await container[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs a runc verb on the container. */
  async runc(verb: string, ...args: string[]): Promise<string> {
    return (await mustRun("runc", [...this.runcArguments, verb, this.id, ...args])).stdout;
  }

  async initPid(): Promise<number> {
    return (JSON.parse(await this.runc("state")) as { pid: number }).pid;
  }

  /** Host pids of all its processes. */
  async pids(): Promise<number[]> {
    const { stdout } = await mustRun("runc", [...this.runcArguments, "ps", "--format", "json", this.id]);
    return JSON.parse(stdout) as number[];
  }

  async #run(): Promise<void> {
    const rootfs = join(this.folder, "rootfs");
    await mkdir(rootfs);
    const image = `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/images/redis.tar`;
    await mustRun("tar", ["-C", rootfs, "-xf", image]);
    await writeFile(join(this.folder, "config.json"), JSON.stringify(this.#config()));
    const log = ["-c", 'exec runc "$@" </dev/null >/dev/null 2>&1', "runc"];
    await mustRun("sh", [...log, ...this.runcArguments, "run", "--detach", "--bundle", this.folder, this.id]);
  }

  #config(): object {
    return {
      ociVersion: "1.0.2",
      process: {
        terminal: false,
        user: { uid: 0, gid: 0 },
        args: ["/bin/sleep", "100000"],
        env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        cwd: "/",
        capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
        noNewPrivileges: true,
      },
      root: { path: "rootfs" },
      hostname: "exec-test",
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
        {
          destination: "/dev/pts",
          type: "devpts",
          source: "devpts",
          options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
      ],
      linux: {
        cgroupsPath: `godwit-test-${this.id}`,
        namespaces: ["pid", "mount", "uts", "ipc", "network"].map((type) => ({ type })),
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // runc deletes below its state folder whatever is mounted there, so that nothing may be.
    const { stdout } = await runCommand("grep", ["-c", this.folder, "/proc/self/mountinfo"]);
    if (stdout.trim() !== "0") throw new Error(`something is mounted below ${this.folder}`);
    await runCommand("runc", [...this.runcArguments, "delete", "--force", this.id]);
    await removeTree(this.folder);
  }
}
