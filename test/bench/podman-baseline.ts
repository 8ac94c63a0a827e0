import { rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Baseline, BaselineMove, BaselinePlace } from "./baseline.ts";
import { BaselineError, type BenchHost, type HostAnswer } from "./bench-host.ts";

const NAME = "bench";
const IMAGE = "localhost/godwit-bench:latest";

/** `podman container checkpoint --export` and `podman container restore --import`, as its manual shows a migration. */
export class PodmanBaseline implements Baseline {
  readonly name = "podman";
  readonly #place: BaselinePlace;
  readonly #archive: string;
  readonly #configuration: string;
  #driver = "overlay";

  constructor(place: BaselinePlace) {
    this.#place = place;
    this.#archive = join(place.sharedDir, "checkpoint.tar.zst");
    this.#configuration = join(place.sharedDir, "containers.conf");
  }

  async missing(host: BenchHost): Promise<string | undefined> {
    for (const program of ["podman", "conmon", "runc", "criu"])
      if (!(await host.has(program))) return `${program} is not installed`;
    return undefined;
  }

  async describe(host: BenchHost): Promise<string> {
    const { stdout } = await host.must(["podman", "--version"]);
    return `${stdout.trim()} with runc, storage ${this.#driver} on a tmpfs, archive (zstd) on a tmpfs`;
  }

  async prepare(hosts: readonly BenchHost[]): Promise<void> {
    const { sharedDir, imageTar } = this.#place;
    // Locks in shared memory would be the machine's, and common to all hosts.
    writeFileSync(
      this.#configuration,
      [
        ...["[containers]", 'log_driver = "k8s-file"', "default_ulimits = []"],
        ...["[engine]", 'lock_type = "file"', 'events_logger = "file"', 'cgroup_manager = "cgroupfs"'],
        ...['runtime = "runc"', "[network]", 'network_config_dir = "/run/bench/networks"', ""],
      ].join("\n"),
    );
    const [first, ...others] = hosts;
    if (first === undefined) throw new Error("a baseline needs hosts");
    if ((await this.#podman(first, "info")).code !== 0) this.#driver = "vfs";
    await this.#must(first, "import", imageTar, IMAGE);
    // By save and load, so that the image has the same identity on all of them.
    const saved = join(sharedDir, "image.tar");
    await this.#must(first, "save", "--output", saved, IMAGE);
    for (const host of others) await this.#must(host, "load", "--input", saved);
    rmSync(saved, { force: true });
  }

  async start(host: BenchHost): Promise<void> {
    const network = ["--network", `ns:${this.#place.address.netnsPath}`];
    const options = ["--detach", "--name", NAME, ...network, "--ulimit", "host"];
    await this.#must(host, "run", ...options, IMAGE, ...this.#place.command);
  }

  async move(from: BenchHost, to: BenchHost): Promise<BaselineMove> {
    rmSync(this.#archive, { force: true });
    const out = ["--export", this.#archive, "--compress", "zstd"];
    const checkpoint = await this.#must(from, "container", "checkpoint", ...out, "--tcp-established", NAME);
    const route = this.#place.address.routeTo(to);
    const into = ["container", "restore", "--import", this.#archive, "--tcp-established"];
    const [restore] = await Promise.all([this.#must(to, ...into), route]);
    const imageBytes = statSync(this.#archive).size;
    return { phasesMs: { checkpointMs: checkpoint.elapsedMs, restoreMs: restore.elapsedMs }, imageBytes };
  }

  async tidy(from: BenchHost): Promise<void> {
    rmSync(this.#archive, { force: true });
    await this.#must(from, "rm", NAME);
  }

  async remove(host: BenchHost): Promise<void> {
    await this.#must(host, "rm", "--force", "--time", "0", NAME);
  }

  #argv(host: BenchHost, args: readonly string[]): string[] {
    const storage = ["--root", `${host.scratch}/storage`, "--runroot", `${host.scratch}/runroot`];
    return [
      "podman",
      ...storage,
      "--tmpdir",
      `${host.scratch}/libpod`,
      "--storage-driver",
      this.#driver,
      ...args,
    ];
  }

  #environment(): Record<string, string> {
    return { CONTAINERS_CONF: this.#configuration };
  }

  async #podman(host: BenchHost, ...args: string[]): Promise<HostAnswer> {
    return await host.run(this.#argv(host, args), { env: this.#environment() });
  }

  async #must(host: BenchHost, ...args: string[]): Promise<HostAnswer> {
    const answer = await this.#podman(host, ...args);
    if (answer.code === 0) return answer;
    const why = answer.stderr.trim().split("\n").slice(-2).join("; ");
    throw new BaselineError(
      `podman ${args.slice(0, 2).join(" ")} on ${host.name}: exit ${answer.code}: ${why}`,
    );
  }
}
