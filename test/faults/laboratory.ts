/** A cluster in which things go wrong on purpose, with one container whose every byte and answer is checked. */
import { readFileSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import type { ContainerInfo, MigrationInfo } from "../../proto/gen/godwit/v1/api.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { RedisClient } from "../demo/client-process.ts";
import type { Window } from "../demo/redis-client.ts";
import { REDIS_COMMAND, redisClientArgv, TestCluster, until } from "../e2e/cluster.ts";
import { leftovers, switches } from "./host-view.ts";

const fixture = (name: string): string => fileURLToPath(new URL(`fixture/${name}.ts`, import.meta.url));
/** Programs of a cluster that can be stopped and disturbed, see fixture. */
export const FIXTURES = { agentMain: fixture("agent"), apiMain: fixture("api") } as const;

/** Shorter than a pause or a partition, longer than an agent takes to start again. */
export const LEASE_MS = 5_000;
/** Its name. */
export const CONTAINER = "cache";
/** What redis appends to while it moves; every answered request is in it. */
const APPEND_FILE = "upper/var/lib/redis/appendonlydir/appendonly.aof.1.incr.aof";
const APPENDED_MB = 8;
const KEYS_MB = 6;
const CLIENT_PAUSE_MS = 10;
const SETTLE_MS = 90_000;

export class Laboratory implements AsyncDisposable {
  readonly cluster: TestCluster;
  #megabytes = 0;
  #client: RedisClient | undefined;
  #id = "";
  /** What the client of the present container has seen that it must not. */
  #harm = "";
  /** A host of it is gone for good. */
  isSpent = false;
  #agentDeaths = new Map<string, number>();

  private constructor(cluster: TestCluster) {
    this.cluster = cluster;
  }

  static async open(): Promise<Laboratory> {
    const cluster = await TestCluster.start(3, { leaseMs: LEASE_MS, ...FIXTURES });
    return new Laboratory(cluster);
  }

  get containerId(): string {
    return this.#id;
  }

  /** Where processes of this node look for the order to stop at a point. */
  holdFolder(side: string): string {
    return side === "scheduler" ? `${this.cluster.dev.dataDir}/api` : this.cluster.dev.node(side).stateDir;
  }

  /**
   * A container that is well, on n1 or n2; its client is on n3.
   * @param megabytes of keys; from 48 on, memory is filled on demand after a move
   */
  async ready(megabytes = KEYS_MB): Promise<{ source: string; target: string }> {
    if (this.#client !== undefined) {
      const { node } = await this.cluster.info(CONTAINER);
      const isShort = this.#appendedBytes(node) < (megabytes + APPENDED_MB) * 1024 * 1024;
      if (megabytes === this.#megabytes && isShort) return around(node);
      await this.discard();
    }
    this.#megabytes = megabytes;
    await this.cluster.must(
      ...[
        "run",
        "--node",
        "n1",
        "--failover",
        "never",
        "--memory",
        "512m",
        CONTAINER,
        "redis",
        "--",
        ...REDIS_COMMAND,
      ],
      ...["--dir", "/var/lib/redis", "--appendonly", "yes"],
      ...["--auto-aof-rewrite-percentage", "0", "--appendfsync", "no"],
    );
    const { id, address } = await this.cluster.info(CONTAINER);
    this.#id = id;
    const argv = [...redisClientArgv(this.cluster, "n3", address), String(CLIENT_PAUSE_MS)];
    this.#client = new RedisClient(argv);
    await this.#client.fill(this.#megabytes);
    this.#harm = "";
    await this.#look(this.#client);
    return around("n1");
  }

  async container(): Promise<ContainerInfo> {
    return await this.cluster.info(CONTAINER);
  }

  /** Takes the container away, in whatever state it is. */
  async discard(): Promise<void> {
    await this.#client?.[Symbol.asyncDispose]();
    this.#client = undefined;
    await this.cluster.cli(["rm", "-f", CONTAINER]);
  }

  /** Starts a move; resolves with its id. */
  async startMove(
    target: string,
    mode: MigrationMode = MigrationMode.AUTO,
    bandwidthBytesPerSecond = 0,
  ): Promise<string> {
    return (await this.cluster.startMove(CONTAINER, target, mode, bandwidthBytesPerSecond)).id;
  }

  async migration(id: string): Promise<MigrationInfo | undefined> {
    return await this.cluster.migration(id);
  }

  /** Of the present container's. */
  async newestMigration(): Promise<string | undefined> {
    return await this.cluster.newestMigration(this.#id);
  }

  async ended(id: string): Promise<MigrationInfo> {
    return await until(
      `migration ${id} to end`,
      async () => {
        const info = await this.migration(id);
        return ["finished", "aborted", "lost"].includes(info?.state ?? "") ? info : undefined;
      },
      SETTLE_MS,
    );
  }

  /** Whether its tasks come to run within that time. */
  async executesOn(node: string, withinMs = 500): Promise<boolean> {
    const before = switches(this.cluster, node, this.#id);
    await delay(withinMs);
    return switches(this.cluster, node, this.#id) > before;
  }

  /**
   * All that must be true when a move is over, whatever went wrong in it: one copy, which runs on `home`; every
   * answer right and none lost on the one connection; keys and file right; nothing left of the move anywhere.
   */
  async checkUnharmed(home: string, gone: readonly string[] = []): Promise<void> {
    const { cluster } = this;
    const client = this.#client;
    if (client === undefined) throw new Error("there is no container to check");
    await this.#runsOn(home);
    await until("the client to get answers again", async () => {
      const { requests } = await this.#look(client);
      return requests > 0 || this.#harm !== "";
    });
    if (this.#harm !== "") throw new Error(this.#harm);
    await this.#nothingLeft(home, gone);
    // One that is executed and not answered yet is soon answered: one too many stays one too many.
    await until("the file to hold what was answered, once", async () => {
      const before = await this.#look(client);
      const appended = this.#appendedRequests(home);
      const after = await this.#look(client);
      if (this.#harm !== "") return true;
      if (appended < before.counter || appended > after.counter)
        throw new Error(
          `${appended} requests are in the file, ${before.counter} to ${after.counter} were answered`,
        );
      return true;
    });
    if (this.#harm !== "") throw new Error(this.#harm);
    const wrongKeys = await client.wrongKeys();
    if (wrongKeys > 0) throw new Error(`${wrongKeys} keys are not what they were`);
    const row = await cluster.info(CONTAINER);
    if (row.restarts !== 0) throw new Error(`it was started again ${row.restarts} times`);
    if (cluster.runningOn(this.#id).join() !== home) throw new Error("another copy came to life");
  }

  async #runsOn(home: string): Promise<void> {
    await until(
      `one running copy, on ${home}`,
      () => this.cluster.runningOn(this.#id).join() === home,
      SETTLE_MS,
    );
    await until("ps to say that it runs there", async () => {
      const row = await this.cluster.info(CONTAINER);
      return row.state === "running" && row.node === home;
    });
  }

  async #nothingLeft(home: string, gone: readonly string[]): Promise<void> {
    await until(
      "nothing to be left of the move",
      () => {
        const left = this.cluster.dev.nodes
          .filter(({ name }) => !gone.includes(name))
          .flatMap(({ name }) => leftovers(this.cluster, name, this.#id, name === home));
        if (left.length > 0) throw new Error(left.join("; "));
        return true;
      },
      20_000,
    );
  }

  /**
   * After a cold move: one copy, which runs on `home` with every request in its file that was answered before the stop;
   * nothing left of the move anywhere. The container is taken away, for its client's connection is over.
   */
  async checkStartedAgain(home: string): Promise<void> {
    const { cluster } = this;
    const client = this.#client;
    if (client === undefined) throw new Error("there is no container to check");
    await this.#runsOn(home);
    await until(
      "it to answer",
      async () => (await cluster.sh(CONTAINER, "redis-cli ping")).trim() === "PONG",
    );
    const { counter } = await client.mark();
    const appended = this.#appendedRequests(home);
    if (appended < counter)
      throw new Error(`${appended} requests are in the file, ${counter} were answered before the stop`);
    await this.#nothingLeft(home, []);
    if (cluster.runningOn(this.#id).join() !== home) throw new Error("another copy came to life");
    await this.discard();
  }

  /** What the client has noticed since the last look; each is told once, and what was wrong with one is kept. */
  async #look(client: RedisClient): Promise<Window> {
    const window = await client.mark();
    const { connections, error, lost, wrong } = window;
    if (connections !== 1 || wrong !== 0 || lost !== 0 || error !== "")
      this.#harm ||= `the client saw ${connections} connections, ${wrong} wrong answers, ${lost} lost: ${error}`;
    return window;
  }

  /** An agent was killed on purpose. */
  agentDied(node: string): void {
    this.#agentDeaths.set(node, (this.#agentDeaths.get(node) ?? 0) + 1);
  }

  /** A shim waits longer before each new agent whose predecessors died young; a new shim begins anew. */
  async refreshShims(): Promise<void> {
    for (const [node, deaths] of this.#agentDeaths) {
      if (deaths < 2) continue;
      this.#agentDeaths.delete(node);
      await until("an agent that has found its feet", async () => {
        const stat = statSync(`/proc/${await this.cluster.dev.node(node).agentPid()}`);
        return Date.now() - stat.ctimeMs > 2_000;
      });
      await this.cluster.dev.killShim(node);
      await this.cluster.dev.startShim(node);
    }
  }

  #appendedBytes(node: string): number {
    return statSync(this.#appendFile(node), { throwIfNoEntry: false })?.size ?? 0;
  }

  #appendedRequests(node: string): number {
    return readFileSync(this.#appendFile(node), "latin1").split("\nincr\r").length - 1;
  }

  #appendFile(node: string): string {
    return `${this.cluster.dev.node(node).dataDir}/containers/${this.#id}/${APPEND_FILE}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client?.[Symbol.asyncDispose]();
    await this.cluster[Symbol.asyncDispose]();
  }
}

const around = (source: string): { source: string; target: string } => ({
  source,
  target: source === "n1" ? "n2" : "n1",
});
