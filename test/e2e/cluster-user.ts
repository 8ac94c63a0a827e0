/** A cluster as its users drive it: by the `godwit` command and the public API. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

import { credentials } from "@grpc/grpc-js";

import {
  type ContainerInfo,
  GodwitClient,
  type ListContainersResponse,
  type ListMigrationsResponse,
  type ListNodesResponse,
  type MigrationInfo,
  type NodeSummary,
} from "../../proto/gen/godwit/v1/api.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { containerRow } from "../../services/cli/shape/container.ts";

export const CLI = fileURLToPath(new URL("../../services/cli/main.ts", import.meta.url));

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
  readonly message: string;
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
  readonly reusedBytes: number;
  readonly filesystemBytes: number;
  readonly error: string;
}

export class ClusterUser {
  /** As $GODWIT_API names it. */
  readonly target: string;
  readonly #patienceMs: number;

  readonly api: GodwitClient;

  /** @param patienceMs how long one command may take */
  constructor(target: string, patienceMs = 200_000) {
    this.target = target;
    this.#patienceMs = patienceMs;
    this.api = new GodwitClient(target, credentials.createInsecure());
  }

  /** Runs `godwit …` to its end. */
  async cli(args: readonly string[], input?: string): Promise<CliResult> {
    const child = spawn(process.execPath, [CLI, ...args], {
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      env: { ...process.env, GODWIT_API: this.target },
      timeout: this.#patienceMs,
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

  /** Its row of `ps -o json`, without a process for each look. */
  async container(name: string): Promise<ContainerRow> {
    return containerRow(await this.info(name)) as unknown as ContainerRow;
  }

  async info(name: string): Promise<ContainerInfo> {
    const { containers } = await answerOf<ListContainersResponse>((done) =>
      this.api.listContainers({ node: "" }, done),
    );
    const found = containers.find(({ spec }) => spec?.name === name);
    if (found === undefined) throw new Error(`there is no container ${name}`);
    return found;
  }

  async nodes(): Promise<NodeSummary[]> {
    return (await answerOf<ListNodesResponse>((done) => this.api.listNodes({}, done))).nodes;
  }

  async migration(id: string): Promise<MigrationInfo | undefined> {
    const answer = await answerOf<ListMigrationsResponse>((done) =>
      this.api.listMigrations({ id, container: "", limit: 1 }, done),
    );
    return answer.migrations[0];
  }

  /** The id of the one that runs, or else of the last one. */
  async newestMigration(container: string): Promise<string | undefined> {
    const answer = await answerOf<ListMigrationsResponse>((done) =>
      this.api.listMigrations({ id: "", container, limit: 1 }, done),
    );
    return answer.migrations[0]?.id;
  }

  async sh(name: string, script: string): Promise<string> {
    return await this.must("exec", name, "--", "sh", "-c", script);
  }

  /** Starts a move and returns at once. */
  async startMove(
    name: string,
    node: string,
    mode: MigrationMode = MigrationMode.AUTO,
    bandwidthBytesPerSecond = 0,
  ): Promise<MigrationInfo> {
    return await new Promise((resolve, reject) => {
      this.api.move(
        {
          nameOrId: name,
          node,
          mode,
          blackoutBudgetMs: 0,
          bandwidthBytesPerSecond,
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
        if (until(last) || ENDED.has(last.state)) return last;
      }
      if (last === undefined) throw new Error(`nothing was said of migration ${id}`);
      return last;
    } finally {
      call.on("error", () => undefined);
      call.cancel();
    }
  }
}

const ENDED: ReadonlySet<string> = new Set(["finished", "aborted", "lost"]);

/** Every call ends: a scheduler that stands still does not hold up who asks it. */
const CALL_MS = 10_000;

async function answerOf<T>(
  call: (done: (error: Error | null, answer: T) => void) => { cancel(): void },
): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const sent = call((error, answer) => (error === null ? resolve(answer) : reject(error)));
  const timer = setTimeout(() => sent.cancel(), CALL_MS);
  return await promise.finally(() => clearTimeout(timer));
}
