import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { join } from "node:path";

import { isAlive, signalExactly } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { answers, listens, listNodes } from "./api.ts";
import { devDown } from "./down.ts";
import { lastWords } from "./launch.ts";
import { type ClusterPlan, planCluster } from "./plan.ts";
import { recordedAgent } from "./namespaces.ts";
import { launchApi, launchNats, relaunchShim } from "./processes.ts";
import { canonicalDataDir, clusterGroups, type DevRecord, processLives, readRecord } from "./record.ts";
import { waitFor } from "./wait.ts";

const API_TIMEOUT_MS = 30_000;
const NATS_TIMEOUT_MS = 20_000;
const AGENT_TIMEOUT_MS = 20_000;
const DEATH_TIMEOUT_MS = 10_000;

interface DevNode {
  readonly name: string;
  readonly netns: string;
  /** Its address on the hosts' own network. */
  readonly underlayAddress: string;
  /** Changes with startShim. */
  readonly shimPid: () => number;
  /** The host's folder in each cgroup hierarchy, as seen from outside. */
  readonly cgroupDirs: readonly string[];
  readonly stateDir: string;
  readonly dataDir: string;
  readonly logPath: string;
  /** Waits for one when the shim is just starting another. */
  readonly agentPid: () => Promise<number>;
}

interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A cluster on this machine that is up. */
export class DevCluster implements AsyncDisposable {
  readonly dataDir: string;
  /** "unix:/…", with commas between several: as the CLI takes it, and gRPC clients where there is one. */
  readonly api: string;
  readonly nodes: readonly DevNode[];
  readonly #plan: ClusterPlan;

  private constructor(plan: ClusterPlan, record: DevRecord) {
    this.#plan = plan;
    this.dataDir = plan.dataDir;
    this.api = plan.api;
    const groups = clusterGroups(record);
    this.nodes = plan.nodes.map(({ name, netns, underlayAddress, stateDir, dataDir }) => ({
      name,
      netns,
      underlayAddress,
      stateDir,
      dataDir,
      shimPid: () => this.#record().processes[name]?.pid ?? 0,
      cgroupDirs: groups.map((group) => join(group, name)),
      logPath: join(plan.logsDir, `${name}.log`),
      agentPid: () => agentPid(name, stateDir),
    }));
  }

  /** The cluster in this folder, whoever has started it. Throws "not-found" when there is none that is up. */
  static open(path: string): DevCluster {
    const dataDir = canonicalDataDir(path);
    const record = readRecord(dataDir);
    if (record?.state !== "up") {
      throw new GodwitError(
        "not-found",
        `no cluster is up in ${dataDir}; start one with 'godwit dev up --data ${dataDir}'`,
      );
    }
    return new DevCluster(planCluster(dataDir, record.nodeCount, record.schedulerCount), record);
  }

  /** Schedulers with their APIs, in the order of their names. */
  get schedulers(): readonly { readonly name: string; readonly id: string; readonly api: string }[] {
    return this.#plan.schedulers.map(({ id, name, socketPath }) => ({ name, id, api: `unix:${socketPath}` }));
  }
  /** Names of nats-servers. */
  get servers(): readonly string[] {
    return this.#plan.servers.map(({ name }) => name);
  }

  /** Names of recorded processes (hosts, "nats", "api") and whether they are alive. */
  processes(): { name: string; pid: number; lives: boolean }[] {
    const record = this.#record();
    return Object.entries(record.processes).map(([name, process]) => ({
      name,
      pid: process.pid,
      lives: processLives(record, process),
    }));
  }

  node(name: string): DevNode {
    const node = this.nodes.find((candidate) => candidate.name === name);
    if (node !== undefined) return node;
    const names = this.nodes.map((known) => known.name).join(", ");
    throw new GodwitError("not-found", `no host is called '${name}'; there are ${names}`);
  }

  /** Starts a command inside a host: in its namespaces and its cgroups. The child's pid is the command's. */
  exec(node: string, argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const { name } = this.node(node);
    return spawn(
      process.execPath,
      [join(import.meta.dirname, "enter.ts"), this.dataDir, name, ...argv],
      options,
    );
  }

  /** Like exec, to the end, with what the command wrote. */
  async run(
    node: string,
    argv: readonly string[],
    signal: AbortSignal = AbortSignal.timeout(60_000),
  ): Promise<CommandResult> {
    const child = this.exec(node, argv, { stdio: ["ignore", "pipe", "pipe"], signal, killSignal: "SIGKILL" });
    let stdout = "";
    let stderr = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    const code = await new Promise<number>((resolve, reject) => {
      child.once("error", (error) => reject(GodwitError.from(error)));
      child.once("close", (exit) => resolve(exit ?? 128));
    });
    return { code, stdout, stderr };
  }

  /** SIGKILL. By the name of its process; without one, the only one. */
  async killApi(name = this.#only(this.#plan.schedulers)): Promise<void> {
    await this.#kill(name);
  }

  /** To the process with this name. */
  signal(name: string, signal: "SIGSTOP" | "SIGCONT" | "SIGTERM"): void {
    const recorded = this.#record().processes[name];
    if (recorded === undefined || !signalExactly(recorded.pid, recorded.startTicks, signal))
      throw new GodwitError("not-found", `${name} does not run`);
  }

  /** Ready when it returns: alone it leads then; one of several may stand by. */
  async startApi(signal?: AbortSignal, name = this.#only(this.#plan.schedulers)): Promise<void> {
    this.#mustBeDead(name);
    const plan = this.#plan.schedulers.find((one) => one.name === name);
    if (plan === undefined) throw new GodwitError("not-found", `no scheduler is called '${name}'`);
    const launched = launchApi(this.#plan, this.#record(), plan);
    await waitFor(
      async () => {
        if (!launched.lives())
          throw new GodwitError("unavailable", `the API has ended; ${lastWords(launched.log())}`);
        if (this.#plan.schedulers.length === 1) return await listNodes(this.api);
        return (await answers(`unix:${plan.socketPath}`)) ? [] : undefined;
      },
      API_TIMEOUT_MS,
      () => `the API does not answer after ${API_TIMEOUT_MS / 1000} s; ${lastWords(launched.log())}`,
      signal,
    );
  }

  async restartApi(signal?: AbortSignal): Promise<void> {
    await this.killApi();
    await this.startApi(signal);
  }

  /** SIGKILL. By the name of its process; without one, the only one. */
  async killNats(name = this.#only(this.#plan.servers)): Promise<void> {
    await this.#kill(name);
  }

  /** Takes connections when it returns. */
  async startNats(signal?: AbortSignal, name = this.#only(this.#plan.servers)): Promise<void> {
    this.#mustBeDead(name);
    const plan = this.#plan.servers.find((one) => one.name === name);
    if (plan === undefined) throw new GodwitError("not-found", `no nats-server is called '${name}'`);
    const launched = launchNats(this.#plan, this.#record(), plan);
    await waitFor(
      () => {
        if (launched.isReady()) return true;
        if (!launched.lives())
          throw new GodwitError("unavailable", `nats-server has ended; ${lastWords(launched.log())}`);
        return undefined;
      },
      NATS_TIMEOUT_MS,
      () => `nats-server is not ready after ${NATS_TIMEOUT_MS / 1000} s; ${lastWords(launched.log())}`,
      signal,
    );
  }

  /** SIGKILL. The host's agent goes on, and keeps the host's namespaces. */
  async killShim(node: string): Promise<void> {
    await this.#kill(this.node(node).name);
  }

  /** Answers its agent's client when it returns. */
  async startShim(node: string, signal?: AbortSignal): Promise<void> {
    const { name, stateDir } = this.node(node);
    this.#mustBeDead(name);
    const plan = this.#plan.nodes.find((candidate) => candidate.name === name);
    if (plan === undefined) throw new GodwitError("internal", `${name} is not planned`);
    const launched = relaunchShim(this.#plan, this.#record(), plan);
    await waitFor(
      async () => {
        if (!launched.lives())
          throw new GodwitError("unavailable", `the shim has ended; ${lastWords(launched.log())}`);
        return (await listens(join(stateDir, "shim.sock"))) ? true : undefined;
      },
      AGENT_TIMEOUT_MS,
      () => `the shim of ${name} does not answer; ${lastWords(launched.log())}`,
      signal,
    );
  }

  /**
   * Starts what has died: nats-server, the API, hosts' shims, in this order. Containers go on meanwhile.
   * @returns the names of what was started
   */
  async startDead(signal?: AbortSignal): Promise<string[]> {
    const dead = this.processes()
      .filter(({ lives }) => !lives)
      .map(({ name }) => name);
    for (const name of this.servers) if (dead.includes(name)) await this.startNats(signal, name);
    for (const { name } of this.schedulers) if (dead.includes(name)) await this.startApi(signal, name);
    for (const { name } of this.nodes) if (dead.includes(name)) await this.startShim(name, signal);
    return dead;
  }

  /** @returns what was removed */
  down(): Promise<string[]> {
    return devDown(this.dataDir);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }

  #record(): DevRecord {
    const record = readRecord(this.dataDir);
    if (record === undefined) throw new GodwitError("not-found", `the cluster in ${this.dataDir} is down`);
    return record;
  }

  #only(processes: readonly { readonly name: string }[]): string {
    const [first, ...others] = processes;
    if (first === undefined || others.length > 0)
      throw new GodwitError("invalid", `say which: ${processes.map(({ name }) => name).join(", ")}`);
    return first.name;
  }

  #mustBeDead(name: string): void {
    const record = this.#record();
    if (processLives(record, record.processes[name]))
      throw new GodwitError("exists", `${name} is running already`);
  }

  async #kill(name: string): Promise<void> {
    const recorded = this.#record().processes[name];
    if (recorded === undefined) return;
    const { pid, startTicks } = recorded;
    signalExactly(pid, startTicks, "SIGKILL");
    const timeoutS = DEATH_TIMEOUT_MS / 1000;
    await waitFor(
      () => (isAlive(pid, startTicks) ? undefined : true),
      DEATH_TIMEOUT_MS,
      () => `${name} (process ${pid}) is alive ${timeoutS} s after SIGKILL`,
    );
  }
}

/** The shim writes down which agent it has started. */
async function agentPid(name: string, stateDir: string): Promise<number> {
  return waitFor(
    () => recordedAgent(stateDir)?.pid,
    AGENT_TIMEOUT_MS,
    () => `no agent runs on ${name}; see the end of its log`,
  );
}
