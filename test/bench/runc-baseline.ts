import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Baseline, BaselineMove, BaselinePlace } from "./baseline.ts";
import { readCriuTimes } from "./criu-stats.ts";
import { BaselineError, type BenchHost, type HostAnswer } from "./bench-host.ts";

const ID = "bench";

interface OciConfig {
  process: { terminal: boolean; args: string[]; rlimits?: unknown };
  root: { path: string; readonly: boolean };
  linux: { cgroupsPath?: string; namespaces: { type: string; path?: string }[] };
}

/** `runc checkpoint` and `runc restore` with the images on a tmpfs that both hosts see. */
export class RuncBaseline implements Baseline {
  readonly name = "runc";
  readonly #place: BaselinePlace;
  readonly #bundle: string;
  readonly #images: string;
  readonly #log: string;

  constructor(place: BaselinePlace) {
    this.#place = place;
    this.#bundle = join(place.sharedDir, "bundle");
    this.#images = join(place.sharedDir, "images");
    this.#log = join(place.sharedDir, "runc.log");
  }

  async missing(host: BenchHost): Promise<string | undefined> {
    for (const program of ["runc", "criu"])
      if (!(await host.has(program))) return `${program} is not installed`;
    return undefined;
  }

  async describe(host: BenchHost): Promise<string> {
    const runc = (await host.must(["runc", "--version"])).stdout.split("\n")[0] ?? "runc";
    const criu = (await host.must(["criu", "--version"])).stdout.split("\n")[0] ?? "";
    return `${runc}, CRIU ${criu.replace(/^Version: /, "")}, images on a tmpfs, the same root file system on both hosts`;
  }

  async prepare(hosts: readonly BenchHost[]): Promise<void> {
    const [host] = hosts;
    if (host === undefined) throw new Error("a baseline needs hosts");
    mkdirSync(join(this.#bundle, "rootfs"), { recursive: true });
    await host.must(["tar", "-xf", this.#place.imageTar, "-C", join(this.#bundle, "rootfs")]);
    await host.must(["runc", "spec", "--bundle", this.#bundle]);
    const path = join(this.#bundle, "config.json");
    const config = JSON.parse(readFileSync(path, "utf8")) as OciConfig;
    config.process.terminal = false;
    config.process.args = [...this.#place.command];
    delete config.process.rlimits; // raising them needs a capability that not every root has
    config.root.readonly = false;
    config.linux.cgroupsPath = `/${ID}`;
    for (const namespace of config.linux.namespaces)
      if (namespace.type === "network") namespace.path = this.#place.address.netnsPath;
    writeFileSync(path, JSON.stringify(config));
  }

  async start(host: BenchHost): Promise<void> {
    await this.#runc(host, "run", "--detach", "--bundle", this.#bundle, ID);
  }

  async move(from: BenchHost, to: BenchHost): Promise<BaselineMove> {
    rmSync(this.#images, { recursive: true, force: true });
    const kept = ["--tcp-established", "--image-path", this.#images];
    const [dumpDir, restoreDir] = [this.#workDir("dump"), this.#workDir("restore")];
    const checkpoint = await this.#runc(from, "checkpoint", ...kept, "--work-path", dumpDir, ID);
    const route = this.#place.address.routeTo(to);
    const target = ["--detach", "--bundle", this.#bundle, "--work-path", restoreDir];
    const [restore] = await Promise.all([this.#runc(to, "restore", ...kept, ...target, ID), route]);
    let imageBytes = 0;
    for (const name of readdirSync(this.#images)) imageBytes += statSync(join(this.#images, name)).size;
    const phasesMs = {
      checkpointMs: checkpoint.elapsedMs,
      restoreMs: restore.elapsedMs,
      ...readCriuTimes(dumpDir, restoreDir),
    };
    return { phasesMs, imageBytes };
  }

  #workDir(name: string): string {
    const path = join(this.#place.sharedDir, name);
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path);
    return path;
  }

  async tidy(): Promise<void> {
    rmSync(this.#images, { recursive: true, force: true });
    await Promise.resolve(); // a checkpointed container is gone from its host already
  }

  /** Killed only: what it leaves behind on the host's own tmpfs ends with the host, and `delete` has teeth. */
  async remove(host: BenchHost): Promise<void> {
    await this.#runc(host, "kill", ID, "KILL");
    await this.#untilStopped(host);
    await this.#runc(host, "delete", ID);
  }

  async #untilStopped(host: BenchHost): Promise<void> {
    const endMs = performance.now() + 10_000;
    for (;;) {
      const { stdout } = await host.run(["runc", "state", ID]);
      if (stdout.includes('"stopped"')) return;
      if (performance.now() > endMs) throw new BaselineError("runc's container does not stop");
    }
  }

  /** What the container has as its standard output must be /dev/null, so runc speaks through its log. */
  async #runc(host: BenchHost, ...args: string[]): Promise<HostAnswer> {
    rmSync(this.#log, { force: true });
    const answer = await host.run(["runc", "--log", this.#log, ...args], { isQuiet: true });
    if (answer.code === 0) return answer;
    throw new BaselineError(`runc ${args[0]} on ${host.name}: exit ${answer.code}: ${this.#lastWords()}`);
  }

  /** runc's last error, and CRIU's first, which is the cause. */
  #lastWords(): string {
    const lines = (name: string): string[] => {
      try {
        return readFileSync(join(this.#place.sharedDir, name), "utf8").trim().split("\n");
      } catch {
        return []; // it did not come so far
      }
    };
    const runc = lines("runc.log").findLast((line) => line.includes("level=error")) ?? "it said nothing";
    const criu = [...lines("dump/dump.log"), ...lines("restore/restore.log")];
    return [runc, ...criu.filter((line) => line.includes("Error")).slice(0, 2)].join("; ");
  }
}
