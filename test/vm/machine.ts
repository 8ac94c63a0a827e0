import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";

import { freePort } from "../../scheduler/testing/free-port.ts";
import { until } from "../e2e/cluster.ts";

const IMAGES = `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/vm`;
const MEMORY_MEGABYTES = 1536;
/** An emulated machine boots in some 25 s when it has a core to itself, and in many minutes on a busy host. */
const BOOT_TIMEOUT_MS = 1_200_000;
const COMMAND_TIMEOUT_MS = 600_000;

export interface MachineOptions {
  readonly name: string;
  /** The Debian suite whose kernel it boots. */
  readonly kernel: "bookworm" | "trixie";
  /** As QEMU calls it; "max" is all that it can emulate, and five levels of page tables are slower than four. */
  readonly cpu?: string;
  /** On the link between the machines. */
  readonly address: string;
  /** QEMU's other end of that link: one machine serves it, the other connects. */
  readonly link: "serve" | "connect";
  /** Folder of the run, which holds app.img and the key. */
  readonly runDir: string;
}

/**
 * A virtual machine with Debian, systemd and a kernel of its own, emulated (no KVM, no privileges, no devices of the
 * host). Its disks forget what was written to them. It is reached over SSH through a port of 127.0.0.1; from inside
 * there is no way out.
 */
export class VirtualMachine implements AsyncDisposable {
  readonly name: string;
  readonly address: string;
  readonly #qemu: ChildProcess;
  readonly #ssh: readonly string[];
  readonly #consolePath: string;
  #connection: ChildProcess | undefined;

  private constructor(options: MachineOptions, qemu: ChildProcess, port: number) {
    this.name = options.name;
    this.address = options.address;
    this.#qemu = qemu;
    this.#consolePath = consoleOf(options);
    this.#ssh = [
      ...["-p", String(port), "-i", `${options.runDir}/key`, "-F", "none"],
      ...["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"],
      ...[
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=60",
        "-o",
        `ControlPath=${options.runDir}/${this.name}.ssh`,
      ],
    ];
  }

  /** Resolves when it has booted and takes commands. */
  static async boot(options: MachineOptions): Promise<VirtualMachine> {
    const port = await freePort();
    const kernel = `${IMAGES}/${options.kernel}`;
    const link = `stream,id=link,addr.type=unix,addr.path=${options.runDir}/link,server=${options.link === "serve" ? "on" : "off"}`;
    const mac = `52:54:00:00:00:${Number(options.address.split(".").at(-1)).toString(16).padStart(2, "0")}`;
    const args = [
      ...[
        "-machine",
        "q35,accel=tcg",
        "-cpu",
        options.cpu ?? "max,la57=off",
        "-smp",
        "1",
        "-m",
        String(MEMORY_MEGABYTES),
      ],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
      ...["-kernel", `${kernel}/vmlinuz`, "-initrd", `${kernel}/initrd`],
      "-append",
      // On a busy host emulated clocks fail the kernel's checks; what helps against the weaknesses of real processors
      // only takes an emulated one time; a kernel that gives up ends the machine.
      `console=ttyS0 quiet no_timer_check tsc=reliable mitigations=off panic=-1 net.ifnames=0 systemd.hostname=${options.name} godwit.address=${options.address}/24`,
      ...["-serial", `file:${consoleOf(options)}`],
      ...["-drive", `file=${IMAGES}/root.img,format=raw,if=virtio,snapshot=on`],
      ...["-drive", `file=${options.runDir}/app.img,format=raw,if=virtio,readonly=on`],
      ...["-netdev", `user,id=command,restrict=on,hostfwd=tcp:127.0.0.1:${port}-:22`],
      ...["-device", "virtio-net-pci,netdev=command"],
      ...["-netdev", link, "-device", `virtio-net-pci,netdev=link,mac=${mac}`],
    ];
    // It ends with this process, however that ends; and others who work on this machine come first.
    const log = openSync(`${options.runDir}/${options.name}.qemu.log`, "w");
    const qemu = spawn(
      "setpriv",
      ["--pdeathsig", "KILL", "nice", "-n", "10", "qemu-system-x86_64", ...args],
      { stdio: ["ignore", log, log], env: { ...process.env, TMPDIR: options.runDir } },
    );
    closeSync(log);
    const machine = new VirtualMachine(options, qemu, port);
    try {
      await machine.#awaitBoot(options);
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
    return machine;
  }

  async #awaitBoot(options: MachineOptions): Promise<void> {
    await until(
      `${this.name} to boot`,
      async () => {
        if (this.#qemu.exitCode !== null || this.#qemu.signalCode !== null) {
          const words = readFileSync(`${options.runDir}/${options.name}.qemu.log`, "utf8");
          throw new Error(`QEMU has ended: ${words.trim()}; the console said: ${this.console().slice(-500)}`);
        }
        if (this.#connection === undefined || this.#connection.exitCode !== null) this.#connect();
        const { code } = await run("ssh", [...this.#ssh, "-O", "check", DESTINATION], 30_000);
        return code === 0;
      },
      BOOT_TIMEOUT_MS,
    );
  }

  /** One connection that is kept: each command is then a channel in it, without a handshake of its own. */
  #connect(): void {
    this.#connection = spawn(
      "setpriv",
      ["--pdeathsig", "KILL", "ssh", ...this.#ssh, "-o", "ControlMaster=yes", "-N", DESTINATION],
      { stdio: "ignore" },
    );
    this.#connection.on("error", () => undefined); // it never comes up then, which is said with a deadline
  }

  /** What the kernel and systemd have written to the serial console. */
  console(): string {
    return readFileSync(this.#consolePath, "utf8");
  }

  /** Program and arguments that run a shell script inside. */
  argv(script: string): string[] {
    return ["ssh", ...this.#ssh, DESTINATION, script];
  }

  /** Runs a shell script inside; throws when it fails. Answers what it wrote. */
  async sh(script: string, input?: string): Promise<string> {
    const [program = "", ...args] = this.argv(script);
    const { code, stdout, stderr } = await run(program, args, COMMAND_TIMEOUT_MS, input);
    if (code !== 0)
      throw new Error(`${this.name}: exit ${code} of '${script}': ${stderr.trim() || stdout.trim()}`);
    return stdout;
  }

  async writeFile(path: string, text: string, mode = "600"): Promise<void> {
    await this.sh(
      `umask 077 && mkdir -p "$(dirname '${path}')" && cat >'${path}' && chmod ${mode} '${path}'`,
      text,
    );
  }

  /** Makes a unix socket on this machine that leads to one inside. */
  async forward(localPath: string, remotePath: string): Promise<void> {
    const { code, stderr } = await run(
      "ssh",
      [...this.#ssh, "-O", "forward", "-L", `${localPath}:${remotePath}`, DESTINATION],
      30_000,
    );
    if (code !== 0) throw new Error(`no way to ${remotePath} in ${this.name}: ${stderr.trim()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its disks forget everything: there is nothing to end in good order.
    for (const child of [this.#connection, this.#qemu]) {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) continue;
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await gone;
    }
  }
}

const DESTINATION = "root@127.0.0.1";
const consoleOf = (options: MachineOptions): string => `${options.runDir}/${options.name}.console.log`;

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; one that takes longer is killed, and its exit code is 128. */
async function run(
  program: string,
  args: readonly string[],
  timeoutMs: number,
  input?: string,
): Promise<Outcome> {
  const child = spawn(program, args, {
    stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  if (input !== undefined) child.stdin?.end(input);
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (exit) => resolve(exit ?? 128));
  });
  return { code, stdout, stderr };
}
