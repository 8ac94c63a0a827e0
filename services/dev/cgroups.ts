import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { basename, dirname, join } from "node:path";

import { processStat } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";

/** One mounted cgroup hierarchy: one for each v1 controller, and v2's. */
export interface CgroupHierarchy {
  /** Name of its folder below /sys/fs/cgroup; "" for a v2 hierarchy that is mounted there itself. */
  readonly name: string;
  readonly type: "cgroup" | "cgroup2";
  /** Mount options that lead to the same hierarchy, such as "cpu,cpuacct". */
  readonly options: string;
  /** Folder below which a cluster makes its own. */
  readonly base: string;
}

const FIRST_LEVEL = "godwit";

/**
 * @param mountinfo text of /proc/self/mountinfo
 * @param membership text of /proc/self/cgroup
 */
export function parseHierarchies(mountinfo: string, membership: string): CgroupHierarchy[] {
  const paths = new Map<string, string>();
  for (const line of membership.split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    for (const controller of controllers.split(",")) paths.set(controller, path);
  }
  const hierarchies: (CgroupHierarchy & { own: string; mountPoint: string })[] = [];
  for (const line of mountinfo.split("\n")) {
    const [head, tail] = line.split(" - ");
    const [, , , root, mountPoint] = head?.split(" ") ?? [];
    const [type, , superOptions] = tail?.split(" ") ?? [];
    if (root === undefined || mountPoint === undefined || (type !== "cgroup" && type !== "cgroup2")) continue;
    const controllers =
      type === "cgroup2" ? [""] : (superOptions ?? "").split(",").filter((option) => paths.has(option));
    const path = paths.get(controllers[0] ?? "none");
    if (path === undefined) continue;
    const options = controllers
      .map((option) => (option.startsWith("name=") ? `none,${option}` : option))
      .join(",");
    if (hierarchies.some((known) => known.type === type && known.options === options)) continue;
    // A mount may show the hierarchy from a folder of it on (in a container); what is outside cannot be reached.
    const inside = root === "/" ? path : path.startsWith(root) ? path.slice(root.length) : "";
    const own = inside === "/" ? mountPoint : mountPoint + inside;
    const name = mountPoint === "/sys/fs/cgroup" ? "" : basename(mountPoint);
    hierarchies.push({ name, type, options, base: own, own, mountPoint });
  }
  const pureV2 = hierarchies.every(({ type }) => type === "cgroup2");
  return hierarchies.map(({ name, type, options, own, mountPoint }) => ({
    name,
    type,
    options,
    // v2 gives controllers only to groups whose parent holds no process: beside our own group, not below it.
    base: pureV2 ? mountPoint : own,
  }));
}

export function readHierarchies(): CgroupHierarchy[] {
  const found = parseHierarchies(
    readFileSync("/proc/self/mountinfo", "utf8"),
    readFileSync("/proc/self/cgroup", "utf8"),
  ).filter(({ base }) => existsSync(base));
  if (found.length === 0)
    throw new GodwitError("unavailable", "no cgroup hierarchy is mounted below /sys/fs/cgroup");
  return found;
}

export const isPureV2 = (hierarchies: readonly CgroupHierarchy[]): boolean =>
  hierarchies.every(({ type }) => type === "cgroup2");

export const clusterGroup = ({ base }: CgroupHierarchy, key: string): string => join(base, FIRST_LEVEL, key);

/** Makes a group and those above it, up to the hierarchy's base. */
export function createGroup(hierarchy: CgroupHierarchy, path: string, pureV2: boolean): void {
  const levels: string[] = [];
  for (let at = path; at !== hierarchy.base && at !== "/"; at = dirname(at)) levels.unshift(at);
  for (const level of levels) {
    if (pureV2) enableControllers(dirname(level));
    try {
      mkdirSync(level);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw GodwitError.from(error);
    }
    inheritCpuset(level);
  }
}

/** On v2: lets the children of a group use all controllers that it has. */
export function enableControllers(group: string): void {
  const wanted = ["cpu", "cpuset", "io", "memory", "pids"];
  const available = readFileSync(join(group, "cgroup.controllers"), "utf8").trim().split(" ");
  const enable = wanted
    .filter((controller) => available.includes(controller))
    .map((controller) => `+${controller}`);
  try {
    writeFileSync(join(group, "cgroup.subtree_control"), enable.join(" "));
  } catch (cause) {
    throw new GodwitError(
      "refused",
      `cgroup controllers cannot be enabled in ${group}: ${(cause as Error).message}. It holds processes of its own; run this outside a container, or in one with a host cgroup namespace`,
      { cause },
    );
  }
}

/** A fresh v1 cpuset has no cpu and no memory node, and takes no process until it has. */
function inheritCpuset(group: string): void {
  for (const name of ["cpuset.cpus", "cpuset.mems"]) {
    const file = join(group, name);
    if (!existsSync(file) || !existsSync(join(group, "cpuset.cpu_exclusive"))) continue; // not v1's cpuset
    if (readFileSync(file, "utf8").trim() !== "") continue;
    writeFileSync(file, readFileSync(join(dirname(group), name), "utf8").trim());
  }
}

/** Moves this process; what it starts from then on is born there. */
export function joinGroup(group: string): void {
  writeFileSync(join(group, "cgroup.procs"), String(process.pid));
}

/** Groups at and below `root`, the deepest last. Empty when there is none. */
function tree(root: string): string[] {
  const groups: string[] = [];
  const visit = (group: string): void => {
    let entries;
    try {
      entries = readdirSync(group, { withFileTypes: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw GodwitError.from(error);
    }
    groups.push(group);
    for (const entry of entries) if (entry.isDirectory()) visit(join(group, entry.name));
  };
  visit(root);
  return groups;
}

function processesIn(roots: readonly string[]): Set<number> {
  const pids = new Set<number>();
  for (const group of roots.flatMap(tree)) {
    for (const pid of readOr(join(group, "cgroup.procs"), "").split("\n"))
      if (Number(pid) > 0) pids.add(Number(pid));
  }
  return pids;
}

/**
 * Ends all that is in these groups and below. A frozen process is thawed only after its SIGKILL: a copy of a
 * container that was held must not run a single instruction.
 * @returns how many were killed
 */
export async function killGroups(roots: readonly string[], timeoutMs = 20_000): Promise<number> {
  const killed = new Set<number>();
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    const alive = [...processesIn(roots)].filter(
      (pid) => !["Z", "X", undefined].includes(processStat(pid)?.state),
    );
    if (alive.length === 0) return killed.size;
    if (alive.includes(process.pid)) {
      throw new GodwitError("refused", "this process is inside a host of that cluster; run it from outside");
    }
    for (const pid of alive) {
      killed.add(pid);
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw GodwitError.from(error);
      }
    }
    for (const group of roots.flatMap(tree)) {
      if (readOr(join(group, "freezer.state"), "THAWED").trim() !== "THAWED") {
        writeOr(join(group, "freezer.state"), "THAWED");
      }
      if (readOr(join(group, "cgroup.freeze"), "0").trim() === "1")
        writeOr(join(group, "cgroup.freeze"), "0");
    }
    if (Date.now() > endMs) {
      const named = alive.slice(0, 5).map((pid) => `${pid} (state ${processStat(pid)?.state ?? "?"})`);
      throw new GodwitError(
        "internal",
        `processes do not die: ${named.join(", ")}; try again, or restart the machine`,
      );
    }
    await sleep(10);
  }
}

/** Removes a cluster's groups, bottom up, and the level above them when no other cluster uses it. */
export async function removeGroups(roots: readonly string[], timeoutMs = 10_000): Promise<number> {
  let removed = 0;
  const endMs = Date.now() + timeoutMs;
  for (const root of roots) {
    for (const group of tree(root).toReversed()) {
      // The kernel needs a moment after the last process.
      while (!removeGroup(group)) {
        if (Date.now() > endMs)
          throw new GodwitError("internal", `the cgroup ${group} stays busy; try again`);
        await sleep(10);
      }
      removed += 1;
    }
    if (basename(dirname(root)) === FIRST_LEVEL) removeGroup(dirname(root));
  }
  return removed;
}

function removeGroup(group: string): boolean {
  try {
    rmdirSync(group);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return true;
    if (code === "EBUSY" || code === "ENOTEMPTY") return false;
    throw GodwitError.from(error);
  }
}

/** Groups vanish while they are looked at. */
function readOr(path: string, absent: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return absent;
  }
}
function writeOr(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch {
    // gone, or no such file in this hierarchy: the caller looks again
  }
}
