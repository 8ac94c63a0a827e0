import { fileURLToPath } from "node:url";

import { LineProcess } from "./line-process.ts";

const repo = fileURLToPath(new URL("../..", import.meta.url));

/** Becomes, in place, the command that follows, inside that host of the cluster. */
export const enterHostArgv = (dataDir: string, node: string): string[] => [
  ...[process.execPath, "--disable-warning=ExperimentalWarning"],
  ...[`${repo}services/dev/enter.ts`, dataDir, node],
];

/** Where a host keeps what the baselines need: on the tmpfs that is its /run, so that it ends with the host. */
const HOST_SCRATCH = "/run/bench";

export interface HostCommand {
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Standard output and error are /dev/null, as a container's have to be. */
  readonly isQuiet?: boolean;
  readonly timeoutMs?: number;
}

export interface HostAnswer {
  readonly code: number;
  readonly elapsedMs: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command that did not do what the baseline needs; its message is fit for the table's notes. */
export class BaselineError extends Error {}

export interface BenchHostPlace {
  readonly name: string;
  /** On the hosts' own network: through it the container's address is reached. */
  readonly underlayAddress: string;
  readonly dataDir: string;
  /** Folders that come first in PATH: the CRIU that Godwit itself uses. */
  readonly toolsDir: string;
}

/** One host of the cluster, used as a plain machine with runc and podman on it. */
export class BenchHost implements AsyncDisposable {
  readonly name: string;
  readonly underlayAddress: string;
  readonly scratch = HOST_SCRATCH;
  readonly #environment: Readonly<Record<string, string>>;
  readonly #process: LineProcess;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(place: BenchHostPlace) {
    this.name = place.name;
    this.underlayAddress = place.underlayAddress;
    this.#environment = {
      PATH: `${place.toolsDir}:${process.env["PATH"] ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`,
      HOME: HOST_SCRATCH,
      TMPDIR: HOST_SCRATCH,
    };
    this.#process = new LineProcess(`the runner on ${place.name}`, [
      ...enterHostArgv(place.dataDir, place.name),
      ...["unshare", "--mount", "--propagation", "private"],
      ...[process.execPath, fileURLToPath(new URL("host-runner.ts", import.meta.url)), HOST_SCRATCH],
    ]);
  }

  /** One command after the other, in the order of the calls. */
  async run(argv: readonly string[], options: Omit<HostCommand, "argv"> = {}): Promise<HostAnswer> {
    const command: HostCommand = { ...options, argv, env: { ...this.#environment, ...options.env } };
    const answer = this.#turn.then(() => this.#process.ask(JSON.stringify(command)));
    this.#turn = answer.catch(() => undefined);
    return (await answer) as HostAnswer;
  }

  async must(argv: readonly string[], options: Omit<HostCommand, "argv"> = {}): Promise<HostAnswer> {
    const answer = await this.run(argv, options);
    if (answer.code !== 0) {
      const why = answer.stderr.trim().split("\n").at(-1) ?? "";
      throw new BaselineError(`${argv.slice(0, 4).join(" ")} on ${this.name}: exit ${answer.code}: ${why}`);
    }
    return answer;
  }

  async has(program: string): Promise<boolean> {
    return (await this.run(["which", program])).code === 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.end("");
  }
}
