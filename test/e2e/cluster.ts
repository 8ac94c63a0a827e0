/** A cluster of its own for one test file, driven as a user drives it: by the command line and the public API. */
import { spawn } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { credentials } from "@grpc/grpc-js";

import { GodwitClient, type MigrationInfo } from "../../proto/gen/godwit/v1/api.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { type DevCluster, devUp } from "../../services/dev/mod.ts";

const repo = fileURLToPath(new URL("../..", import.meta.url));
const CLI = `${repo}services/cli/main.ts`;
const PREFIX = process.env["GODWIT_PREFIX"] ?? "/opt/godwit";
export const REDIS_IMAGE = `${PREFIX}/images/redis.tar`;
export const REDIS_COMMAND = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""];

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ContainerRow {
  readonly name: string;
  readonly id: string;
  readonly node: string;
  readonly state: string;
  readonly address: string;
  readonly restarts: number;
  readonly epoch: number;
}

export interface MoveRow {
  readonly id: string;
  readonly from: string;
  readonly to: string;
  readonly mode: string;
  readonly state: string;
  readonly blackoutMs: number;
  readonly totalMs: number;
  readonly memoryBytes: number;
  readonly sentBytes: number;
  readonly filesystemBytes: number;
  readonly error: string;
}

export class TestCluster implements AsyncDisposable {
  readonly dev: DevCluster;
  readonly api: GodwitClient;

  private constructor(dev: DevCluster) {
    this.dev = dev;
    this.api = new GodwitClient(dev.api, credentials.createInsecure());
  }

  /** Up, with the image "redis" (redis and busybox) imported. */
  static async start(nodes = 3, options: { readonly leaseMs?: number } = {}): Promise<TestCluster> {
    const dataDir = `/var/lib/godwit-test-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
    const dev = await devUp({ nodes, dataDir, announce: false, ...options });
    const cluster = new TestCluster(dev);
    try {
      await cluster.must("image", "import", "redis", REDIS_IMAGE);
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return cluster;
  }

  /** Runs `godwit …` to its end. */
  async cli(args: readonly string[], input?: string): Promise<CliResult> {
    const child = spawn(process.execPath, [CLI, ...args], {
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      env: { ...process.env, GODWIT_API: this.dev.api },
      timeout: 200_000,
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

  async must(...args: string[]): Promise<string> {
    const result = await this.cli(args);
    if (result.code !== 0)
      throw new Error(`godwit ${args.join(" ")}: exit ${result.code}: ${result.stderr.trim()}`);
    return result.stdout;
  }

  async json<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.must(...args, "-o", "json")) as T;
  }

  async container(name: string): Promise<ContainerRow> {
    const rows = await this.json<ContainerRow[]>("ps");
    const row = rows.find((candidate) => candidate.name === name);
    if (row === undefined) throw new Error(`ps does not list ${name}`);
    return row;
  }

  async sh(name: string, script: string): Promise<string> {
    return await this.must("exec", name, "--", "sh", "-c", script);
  }

  /** Starts a move and returns at once. */
  async startMove(name: string, node: string): Promise<MigrationInfo> {
    return await new Promise((resolve, reject) => {
      this.api.move(
        {
          nameOrId: name,
          node,
          mode: MigrationMode.AUTO,
          blackoutBudgetMs: 0,
          bandwidthBytesPerSecond: 0,
          dryRun: false,
        },
        (error, answer) => (error === null ? resolve(answer) : reject(error)),
      );
    });
  }

  /** Follows a migration until `until` says so, or it has ended. */
  async watchMigration(id: string, until: (info: MigrationInfo) => boolean): Promise<MigrationInfo> {
    const call = this.api.watchMigration({ id });
    try {
      let last: MigrationInfo | undefined;
      for await (const message of call) {
        last = message as MigrationInfo;
        if (until(last) || last.state === "finished" || last.state === "aborted") return last;
      }
      if (last === undefined) throw new Error(`nothing was said of migration ${id}`);
      return last;
    } finally {
      call.on("error", () => undefined);
      call.cancel();
    }
  }

  /** Pids, in this pid namespace, of everything in the container's cgroup on that node. */
  processesOn(node: string, containerId: string): number[] {
    for (const folder of this.dev.node(node).cgroupDirs) {
      if (!folder.includes("/freezer/") && !folder.startsWith("/sys/fs/cgroup/godwit")) continue;
      try {
        const text = readFileSync(`${folder}/godwit/${containerId}/cgroup.procs`, "utf8");
        return text.split("\n").filter(Boolean).map(Number);
      } catch {
        return [];
      }
    }
    throw new Error(`no freezer cgroup is known of ${node}`);
  }

  /** Nodes on which processes of the container exist that are not frozen. */
  runningOn(containerId: string): string[] {
    return this.dev.nodes
      .filter(
        ({ name }) => this.processesOn(name, containerId).length > 0 && !this.#isFrozen(name, containerId),
      )
      .map(({ name }) => name);
  }

  #isFrozen(node: string, containerId: string): boolean {
    return this.dev.node(node).cgroupDirs.some((folder) => {
      try {
        return readFileSync(`${folder}/godwit/${containerId}/freezer.state`, "utf8").trim() === "FROZEN";
      } catch {
        return false;
      }
    });
  }

  /** Whether the host still has a folder of the container. */
  isKnownOn(node: string, containerId: string): boolean {
    const { stateDir, dataDir } = this.dev.node(node);
    return [`${stateDir}/containers/${containerId}`, `${dataDir}/containers/${containerId}`].some(
      (path) => statSync(path, { throwIfNoEntry: false }) !== undefined,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.api.close();
    await this.dev.down();
  }
}

/** Waits for a condition; says what it waited for when it never came. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 30_000,
): Promise<T> {
  const deadlineMs = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const found = await look();
      if (found !== undefined && found !== false) return found;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadlineMs) {
      const why = last instanceof Error ? ` (last: ${last.message})` : "";
      throw new Error(`waited ${timeoutMs} ms in vain for ${what}${why}`);
    }
    await delay(50);
  }
}

/** argv of the demo's redis client, running inside a host of the cluster. */
export function redisClientArgv(cluster: TestCluster, node: string, address: string): string[] {
  return [
    ...[process.execPath, CLI, "dev", "exec", "--data", cluster.dev.dataDir, node, "--"],
    ...[process.execPath, `${repo}test/demo/redis-client.ts`, address],
  ];
}
