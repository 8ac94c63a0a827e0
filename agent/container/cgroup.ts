import { mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import type { Resources } from "../../proto/gen/godwit/v1/spec.ts";
import { parseCgroupMounts, type CgroupMode, v2ContainersParents } from "./cgroup-layout.ts";

/** Where runc looks for the v2 hierarchy, and where everybody mounts it. */
const V2_MOUNT = "/sys/fs/cgroup";
const V2_CONTROLLERS = ["cpu", "cpuset", "io", "memory", "pids"];

/**
 * The cgroup hierarchies of this host as this process sees them: v1 (one a controller), v2, or both (hybrid,
 * where the controllers are v1's). A container's cgroup is a folder below the agent's own in each of v1's, and
 * beside it on v2 (see v2ContainersParents).
 */
export class CgroupTree {
  readonly mode: CgroupMode;
  /** Folder that the containers' are below, by controller ("" for v2). */
  readonly #base: ReadonlyMap<string, string>;

  constructor(mode: CgroupMode, base: ReadonlyMap<string, string>) {
    this.mode = mode;
    this.#base = base;
  }

  /** On v2 it also gives the containers' cgroups their controllers. */
  static detect(): CgroupTree {
    const { mode, own } = parseCgroupMounts(
      readFileSync("/proc/self/mountinfo", "utf8"),
      readFileSync("/proc/self/cgroup", "utf8"),
    );
    if (mode !== "v2") return new CgroupTree(mode, own);
    const { unit, parent } = v2ContainersParents(own.get("") ?? V2_MOUNT);
    const base = exists(unit) ? unit : parent;
    if (base === undefined) {
      throw new GodwitError(
        "unavailable",
        `there is no cgroup for containers (${unit}); start godwit-containers.service (deploy/systemd) first`,
      );
    }
    delegateControllers(base);
    mkdirSync(`${base}/godwit`, { recursive: true });
    delegateControllers(`${base}/godwit`);
    return new CgroupTree(mode, new Map([["", base]]));
  }

  /** The v2 hierarchy as this host sees it, if it has one. */
  get v2Root(): string | undefined {
    if (this.mode === "v2") return V2_MOUNT;
    return this.mode === "hybrid" ? `${V2_MOUNT}/unified` : undefined;
  }

  /**
   * The `cgroup.procs` of the agent's own freezer: a process that is moved there goes on, wherever it stood still.
   * Undefined on v2, where what stands still can be killed without that.
   */
  get ownFreezerProcs(): string | undefined {
    return this.mode === "v2" ? undefined : `${this.#base.get("freezer")}/cgroup.procs`;
  }

  /** @param relative a path such as "godwit/<id>" */
  container(relative: string): ContainerCgroup {
    const folders = new Map<string, string>();
    for (const [controller, folder] of this.#base) folders.set(controller, `${folder}/${relative}`);
    return new ContainerCgroup(this.mode, folders);
  }

  /** The same cgroup as runc is told of it: relative to the agent's own on v1, to the hierarchy's mount on v2. */
  runcPath(relative: string): string {
    const v2 = this.mode === "v2" ? this.#base.get("") : undefined;
    return v2 === undefined ? relative : `${v2.slice(V2_MOUNT.length)}/${relative}`;
  }
}

function delegateControllers(group: string): void {
  const available = readFileSync(`${group}/cgroup.controllers`, "utf8").trim().split(" ");
  const enable = V2_CONTROLLERS.filter((controller) => available.includes(controller));
  try {
    writeFileSync(`${group}/cgroup.subtree_control`, enable.map((name) => `+${name}`).join(" "));
  } catch (cause) {
    throw new GodwitError(
      "unavailable",
      `the cgroup ${group} cannot give controllers to containers: it holds processes of its own (${GodwitError.from(cause).message})`,
      { cause },
    );
  }
}

export interface FreezerFiles {
  readonly control: string;
  readonly frozen: string;
  readonly thawed: string;
  readonly confirm: string;
  /** What `confirm` says when everything stands still. */
  readonly confirmed: string;
}

const FREEZE_DEADLINE_MS = 10_000;
const CPU_PERIOD_USEC = 100_000;

export class ContainerCgroup {
  readonly #mode: CgroupMode;
  readonly #folders: ReadonlyMap<string, string>;

  constructor(mode: CgroupMode, folders: ReadonlyMap<string, string>) {
    this.#mode = mode;
    this.#folders = folders;
  }

  get #v2(): boolean {
    return this.#mode === "v2";
  }

  #folder(controller: string): string {
    const folder = this.#folders.get(this.#v2 ? "" : controller);
    if (folder === undefined) {
      throw new GodwitError(
        "unavailable",
        `this host mounts no ${controller} cgroup controller; mount it first`,
      );
    }
    return folder;
  }

  /** The folder whose freezer CRIU is given. */
  get freezerPath(): string {
    return this.#folder("freezer");
  }

  /** One file a hierarchy: writing a pid into each moves the process into the container's cgroup. */
  get procsFiles(): string[] {
    return [...this.#folders.values()]
      .filter((folder) => exists(folder))
      .map((folder) => `${folder}/cgroup.procs`);
  }

  exists(): boolean {
    return exists(this.freezerPath);
  }

  /** What freezes and thaws everything at and below this cgroup, for a process that knows nothing of cgroups. */
  get freezer(): FreezerFiles {
    const folder = this.freezerPath;
    return this.#v2
      ? {
          control: `${folder}/cgroup.freeze`,
          frozen: "1",
          thawed: "0",
          confirm: `${folder}/cgroup.events`,
          confirmed: "frozen 1",
        }
      : {
          control: `${folder}/freezer.state`,
          frozen: "FROZEN",
          thawed: "THAWED",
          confirm: `${folder}/freezer.state`,
          confirmed: "FROZEN",
        };
  }

  /** Freezes each cgroup below by itself, so that none goes on when this one is thawed. */
  holdEach(): void {
    for (const entry of list(this.freezerPath)) {
      const folder = `${this.freezerPath}/${entry}`;
      const { control, frozen } = this.freezer;
      try {
        writeFileSync(`${folder}${control.slice(this.freezerPath.length)}`, frozen);
      } catch (error) {
        if (exists(folder)) throw error;
      }
    }
  }

  /** Whether a process is at or below it. */
  get isPopulated(): boolean {
    return this.processes().length > 0;
  }

  /** In the hierarchy that freezes alone. */
  createFreezer(): void {
    mkdirSync(this.freezerPath, { recursive: true });
  }

  /** Pids of all processes inside, as the agent's pid namespace numbers them. */
  processes(): number[] {
    const found: number[] = [];
    const visit = (folder: string): void => {
      found.push(...readPids(`${folder}/cgroup.procs`));
      for (const entry of list(folder)) visit(`${folder}/${entry}`);
    };
    visit(this.freezerPath);
    return found;
  }

  isFrozen(): boolean {
    if (this.#v2) return /^frozen 1$/m.test(read(`${this.freezerPath}/cgroup.events`));
    return read(`${this.freezerPath}/freezer.state`).trim() === "FROZEN";
  }

  /** Resolves when every task inside stands still. Idempotent. */
  async freeze(signal: AbortSignal): Promise<void> {
    const deadlineMs = performance.now() + FREEZE_DEADLINE_MS;
    for (let round = 0; ; round += 1) {
      signal.throwIfAborted();
      // v1: a freezer that stays FREEZING is asked again, as the kernel documents.
      if (this.#v2) writeFileSync(`${this.freezerPath}/cgroup.freeze`, "1");
      else writeFileSync(`${this.freezerPath}/freezer.state`, "FROZEN");
      for (let look = 0; look < 50; look += 1) {
        if (this.isFrozen()) return;
        if (look > 20) await delay(1);
      }
      if (performance.now() > deadlineMs) {
        this.thaw();
        throw new GodwitError(
          "deadline",
          "the container's processes could not be frozen within 10 s (a task hangs in the kernel)",
        );
      }
      await delay(Math.min(round + 1, 20));
    }
  }

  thaw(): void {
    if (!this.exists()) return;
    if (this.#v2) writeFileSync(`${this.freezerPath}/cgroup.freeze`, "0");
    else writeFileSync(`${this.freezerPath}/freezer.state`, "THAWED");
  }

  /** SIGKILL to everything inside; resolves when nothing is left. Frozen tasks die without running again. */
  async killAll(): Promise<void> {
    const deadlineMs = performance.now() + 10_000;
    while (this.exists()) {
      const pids = this.processes();
      if (pids.length === 0) return;
      if (this.#v2 && exists(`${this.freezerPath}/cgroup.kill`))
        writeFileSync(`${this.freezerPath}/cgroup.kill`, "1");
      else {
        for (const pid of pids) {
          try {
            process.kill(pid, "SIGKILL");
          } catch {
            // It has exited in between.
          }
        }
      }
      // On v1 a frozen task takes its SIGKILL only when thawed: it then dies before its next instruction.
      if (this.isFrozen() || !this.#v2) this.thaw();
      if (performance.now() > deadlineMs) {
        throw new GodwitError("internal", `processes ${pids.join(", ")} of the container survive SIGKILL`);
      }
      await delay(2);
    }
  }

  memoryBytes(): number {
    const folder = this.#folders.get(this.#v2 ? "" : "memory");
    if (folder === undefined) return 0;
    return Number(read(`${folder}/${this.#v2 ? "memory.current" : "memory.usage_in_bytes"}`)) || 0;
  }

  /** Memory of no file, swapped out or not: a page that several processes share counts once. Undefined: not known. */
  ownMemoryBytes(): number | undefined {
    const folder = this.#folders.get(this.#v2 ? "" : "memory");
    if (folder === undefined) return undefined;
    const stat = new Map(
      read(`${folder}/memory.stat`)
        .split("\n")
        .map((line) => [line.split(" ")[0] ?? "", Number(line.split(" ")[1])]),
    );
    const anonymous = stat.get(this.#v2 ? "anon" : "rss");
    if (anonymous === undefined) return undefined;
    const swapped = this.#v2 ? Number(read(`${folder}/memory.swap.current`)) || 0 : (stat.get("swap") ?? 0);
    return anonymous + (stat.get("shmem") ?? 0) + swapped;
  }

  cpuUsageUsec(): number {
    if (this.#v2) return Number(/^usage_usec (\d+)$/m.exec(read(`${this.freezerPath}/cpu.stat`))?.[1] ?? 0);
    const folder = this.#folders.get("cpuacct");
    return folder === undefined ? 0 : Math.floor(Number(read(`${folder}/cpuacct.usage`)) / 1000) || 0;
  }

  /** How long its CPU limit has kept it from running since it was made, summed over CPUs; undefined: it has no limit. */
  throttledUsec(): number | undefined {
    const folder = this.#folders.get(this.#v2 ? "" : "cpu");
    if (folder === undefined) return undefined;
    const stat = read(`${folder}/cpu.stat`);
    const [, periods] = /^nr_periods (\d+)$/m.exec(stat) ?? [];
    if (periods === undefined || periods === "0") return undefined;
    if (this.#v2) return Number(/^throttled_usec (\d+)$/m.exec(stat)?.[1] ?? 0);
    return Math.floor(Number(/^throttled_time (\d+)$/m.exec(stat)?.[1] ?? 0) / 1000);
  }

  /** Tasks inside now. */
  pidsCount(): number {
    const folder = this.#folders.get(this.#v2 ? "" : "pids");
    return folder === undefined ? 0 : Number(read(`${folder}/pids.current`)) || 0;
  }

  /** Read from and written to block devices since the cgroup was made; undefined: not accounted for here. */
  blockIoBytes(): { readonly read: number; readonly written: number } | undefined {
    const folder = this.#folders.get(this.#v2 ? "" : "blkio");
    if (folder === undefined) return undefined;
    const file = `${folder}/${this.#v2 ? "io.stat" : "blkio.throttle.io_service_bytes"}`;
    if (!exists(file)) return undefined;
    const text = read(file);
    const sum = (pattern: RegExp): number =>
      [...text.matchAll(pattern)].reduce((total, match) => total + Number(match[1]), 0);
    return this.#v2
      ? { read: sum(/\brbytes=(\d+)/g), written: sum(/\bwbytes=(\d+)/g) }
      : { read: sum(/^\d+:\d+ Read (\d+)$/gm), written: sum(/^\d+:\d+ Write (\d+)$/gm) };
  }

  /** Its folder on the v2 hierarchy, where the kernel says how its processes wait; undefined: the host has none. */
  get pressureFolder(): string | undefined {
    return this.#folders.get("");
  }

  /** Whether the kernel's OOM killer has killed something inside since the cgroup was made. */
  outOfMemoryKills(): number {
    const folder = this.#folders.get(this.#v2 ? "" : "memory");
    if (folder === undefined) return 0;
    return Number(
      /^oom_kill (\d+)$/m.exec(read(`${folder}/${this.#v2 ? "memory.events" : "memory.oom_control"}`))?.[1] ??
        0,
    );
  }

  /** Lifts the limits that would hit a restore while CRIU's own processes are inside; `applyLimits` sets them again. */
  liftLimits(): void {
    this.#write("memory", "memory.max", "memory.limit_in_bytes", "max", "-1");
    this.#write("pids", "pids.max", "pids.max", "max", "max");
    this.limitCpu(0);
  }

  get canLimitCpu(): boolean {
    const folder = this.#folders.get(this.#v2 ? "" : "cpu");
    return folder !== undefined && exists(`${folder}/${this.#v2 ? "cpu.max" : "cpu.cfs_quota_us"}`);
  }

  /** Thousandths of a core; 0: no limit. */
  limitCpu(cpuMillis: number): void {
    // The kernel takes no quota below 1 ms a period.
    const quota =
      cpuMillis === 0 ? undefined : String(Math.round((Math.max(10, cpuMillis) * CPU_PERIOD_USEC) / 1000));
    this.#write("cpu", "cpu.max", "cpu.cfs_quota_us", `${quota ?? "max"} ${CPU_PERIOD_USEC}`, quota ?? "-1");
  }

  applyLimits(limits: Resources | undefined): void {
    if (limits === undefined) return;
    const memory = limits.memoryBytes > 0 ? String(limits.memoryBytes) : undefined;
    if (memory !== undefined) this.#write("memory", "memory.max", "memory.limit_in_bytes", memory, memory);
    if (limits.pids > 0)
      this.#write("pids", "pids.max", "pids.max", String(limits.pids), String(limits.pids));
    if (limits.cpuMillis > 0) this.limitCpu(limits.cpuMillis);
  }

  #write(controller: string, v2File: string, v1File: string, v2Value: string, v1Value: string): void {
    const folder = this.#folders.get(this.#v2 ? "" : controller);
    if (folder === undefined || !exists(folder)) return;
    writeFileSync(`${folder}/${this.#v2 ? v2File : v1File}`, this.#v2 ? v2Value : v1Value);
  }

  create(): void {
    for (const folder of this.#folders.values()) mkdirSync(folder, { recursive: true });
  }

  /** Removes the (empty) cgroup from every hierarchy. */
  async remove(): Promise<void> {
    const removeFolder = async (folder: string): Promise<void> => {
      for (const entry of list(folder)) await removeFolder(`${folder}/${entry}`);
      for (let attempt = 0; exists(folder); attempt += 1) {
        try {
          rmdirSync(folder);
        } catch (cause) {
          // A dying process is counted until it is reaped.
          if (attempt === 200)
            throw new GodwitError("internal", `the cgroup ${folder} cannot be removed`, { cause });
          await delay(10);
        }
      }
    };
    for (const folder of this.#folders.values()) await removeFolder(folder);
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // the cgroup is gone: it holds nothing
  }
}

function readPids(file: string): number[] {
  return read(file).split("\n").filter(Boolean).map(Number);
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

function exists(path: string): boolean {
  try {
    readdirSync(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOTDIR";
  }
}
