/** A cluster of its own for one test file, driven as a user drives it: by the command line and the public API. */
import { readFileSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { type DevCluster, devUp, type DevUpOptions } from "../../services/dev/mod.ts";
import { CLI, ClusterUser } from "./cluster-user.ts";

export type { ContainerRow, MoveRow } from "./cluster-user.ts";

const repo = fileURLToPath(new URL("../..", import.meta.url));
const PREFIX = process.env["GODWIT_PREFIX"] ?? "/opt/godwit";
export const REDIS_IMAGE = `${PREFIX}/images/redis.tar`;
export const REDIS_COMMAND = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""];

export class TestCluster extends ClusterUser implements AsyncDisposable {
  readonly dev: DevCluster;

  private constructor(dev: DevCluster) {
    super(dev.api);
    this.dev = dev;
  }

  /** Up, with the image "redis" (redis and busybox) imported. */
  static async start(
    nodes = 3,
    options: Pick<
      DevUpOptions,
      "leaseMs" | "agentMain" | "apiMain" | "cpuMillis" | "memoryBytes" | "schedulers"
    > = {},
  ): Promise<TestCluster> {
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
      const group = `${folder}/godwit/${containerId}`;
      return (
        readOr(`${group}/freezer.state`, "").trim() === "FROZEN" ||
        /^frozen 1$/m.test(readOr(`${group}/cgroup.events`, ""))
      );
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

/** Cgroups vanish while they are looked at. */
function readOr(path: string, absent: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return absent;
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
