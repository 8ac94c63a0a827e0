/** A cluster of virtual machines for a test file: hosts that share nothing but a cable. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { until } from "../e2e/cluster.ts";
import { ClusterUser } from "../e2e/cluster-user.ts";
import { API_SOCKET, install } from "./installation.ts";
import { type MachineOptions, VirtualMachine } from "./machine.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const APP = "/opt/godwit/app";
/** Where godwit-containers.service keeps them on a host with cgroup v2. */
const CONTAINERS = "/sys/fs/cgroup/system.slice/godwit-containers.service/godwit";
const COMMAND_TIMEOUT_MS = 900_000;
const READY_TIMEOUT_MS = 900_000;

type Wanted = Pick<MachineOptions, "name" | "kernel" | "cpu">;

export class VmCluster extends ClusterUser implements AsyncDisposable {
  readonly machines: readonly VirtualMachine[];
  readonly #stack: AsyncDisposableStack;

  private constructor(target: string, machines: readonly VirtualMachine[], stack: AsyncDisposableStack) {
    super(target, COMMAND_TIMEOUT_MS);
    this.machines = machines;
    this.#stack = stack;
  }

  /** Boots the machines and installs Godwit on them; resolves when all nodes are ready and "redis" is imported. */
  static async start(wanted: readonly Wanted[]): Promise<VmCluster> {
    await using stack = new AsyncDisposableStack();
    const { machines, runDir } = await bootMachines(wanted, stack);
    await install(machines, runDir);
    const socket = `${runDir}/api.sock`;
    const cluster = new VmCluster(`unix:${socket}`, machines, stack.move());
    try {
      await cluster.machine(wanted[0]?.name ?? "").forward(socket, API_SOCKET);
      await until("all nodes to be ready", () => cluster.#allReady(), READY_TIMEOUT_MS);
      await cluster.must(
        "image",
        "import",
        "redis",
        `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/images/redis.tar`,
      );
      // Each machine unpacks the image for its first container, longer than a move waits for a target.
      for (const { name } of wanted) {
        await cluster.must("run", "--node", name, `first-${name}`, "redis", "--", "sleep", "100000");
        await cluster.must("rm", "-f", `first-${name}`);
      }
    } catch (error) {
      const logs = await cluster.journals();
      await cluster[Symbol.asyncDispose]();
      throw new Error(`the cluster does not start: ${String(error)}\n${logs}`, { cause: error });
    }
    return cluster;
  }

  async #allReady(): Promise<boolean> {
    const nodes = await this.json<{ name: string; state: string }[]>("node", "ls");
    return this.machines.every(({ name }) =>
      nodes.some((node) => node.name === name && node.state === "ready"),
    );
  }

  machine(name: string): VirtualMachine {
    const found = this.machines.find((machine) => machine.name === name);
    if (found === undefined) throw new Error(`there is no machine ${name}`);
    return found;
  }

  /** What Godwit's units have said last, machine by machine; for a failure's message. */
  async journals(): Promise<string> {
    const said = await Promise.all(
      this.machines.map(async (machine) => {
        const script = "journalctl --no-pager -n 40 -o cat -u nats-server -u 'godwit-*'";
        return `--- ${machine.name}\n${await machine.sh(script).catch(String)}`;
      }),
    );
    return said.join("\n");
  }

  /** Names of the machines on which processes of the container exist that are not frozen. */
  async runningOn(containerId: string): Promise<string[]> {
    const group = `${CONTAINERS}/${containerId}`;
    const script = `if [ -s ${group}/cgroup.procs ] || grep -qs 'populated 1' ${group}/cgroup.events; then grep -q 'frozen 1' ${group}/cgroup.events || echo yes; fi`;
    const answers = await Promise.all(this.machines.map((machine) => machine.sh(script)));
    return this.machines.filter((_, index) => answers[index]?.trim() === "yes").map(({ name }) => name);
  }

  /** Folders, cgroups, mounts and network devices that a host still has of the container. */
  async leftOn(name: string, containerId: string): Promise<string> {
    const script = [
      `ls -d /var/lib/godwit/{state,data}/containers/${containerId} ${CONTAINERS}/${containerId} 2>/dev/null`,
      `grep -o '[^ ]*${containerId}[^ ]*' /proc/self/mountinfo`,
      `ls /run/netns 2>/dev/null | grep ${containerId.slice(0, 8)}`,
      "true",
    ].join("; ");
    return (await this.machine(name).sh(`bash -c "${script.replaceAll('"', '\\"')}"`)).trim();
  }

  async cgroupFile(name: string, containerId: string, file: string): Promise<string> {
    return (await this.machine(name).sh(`cat ${CONTAINERS}/${containerId}/${file}`)).trim();
  }

  async agentPid(name: string): Promise<number> {
    const text = await this.machine(name).sh("cat /var/lib/godwit/state/agent.json");
    return (JSON.parse(text) as { pid: number }).pid;
  }

  /** Program and arguments of the demo's redis client, running on that host. */
  redisClientArgv(name: string, address: string): string[] {
    return this.machine(name).argv(
      `exec ${APP}/node_modules/.bin/node ${APP}/test/demo/redis-client.ts ${address}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.api.close();
    await this.#stack.disposeAsync();
  }
}

/** Boots machines that are wired to each other; the stack takes them and all their files away. */
export async function bootMachines(
  wanted: readonly Wanted[],
  stack: AsyncDisposableStack,
): Promise<{ machines: VirtualMachine[]; runDir: string }> {
  const runDir = await mkdtemp(`${tmpdir()}/godwit-vm-`);
  stack.defer(() => rm(runDir, { recursive: true, force: true }));
  const execute = promisify(execFile);
  await execute("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", `${runDir}/key`]);
  await execute(`${here}app-disk.sh`, [`${runDir}/app.img`, `${runDir}/key.pub`], { timeout: 300_000 });
  const booting: Promise<VirtualMachine>[] = [];
  for (const [index, machine] of wanted.entries()) {
    const link = index === 0 ? "serve" : "connect";
    if (index > 0) await until("the link between the machines", () => existsSync(`${runDir}/link`));
    booting.push(VirtualMachine.boot({ ...machine, address: `10.9.0.${index + 1}`, link, runDir }));
  }
  const settled = await Promise.allSettled(booting);
  const machines = settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  for (const machine of machines) stack.use(machine);
  for (const one of settled) if (one.status === "rejected") throw one.reason;
  return { machines, runDir };
}
