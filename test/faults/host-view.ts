/** What is to be seen of one container on a host, from outside the host. */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";

import type { TestCluster } from "../e2e/cluster.ts";

/** What a container that runs has in its two folders, and nothing of a move. */
const STATE_ENTRIES = new Set(["record.json", "bundle", "root", "dev", "shm", "log"]);
const DATA_ENTRIES = new Set(["upper", "work"]);
/** Programs that work for one move and end with it. CRIU renames itself, so its command line does not tell. */
const MOVERS = /\/(criu|runc)(-[\w.]+)?$/;
export const FILLER = "filler/main.ts";

export interface Process {
  readonly pid: number;
  readonly command: string;
}

/** Processes of the host itself, those in containers left out. */
export function hostProcesses(cluster: TestCluster, node: string): Process[] {
  const [folder = ""] = cluster.dev.node(node).cgroupDirs;
  return [folder, join(folder, "host")].flatMap((group) =>
    readText(join(group, "cgroup.procs"))
      .split("\n")
      .filter(Boolean)
      .map((pid) => ({ pid: Number(pid), command: readText(`/proc/${pid}/cmdline`) })),
  );
}

/** CRIU, runc and fillers that work for a move on this host, wherever their cgroup is. */
export function movers(cluster: TestCluster, node: string, containerId: string): Process[] {
  const inside = cluster
    .processesOn(node, containerId)
    .map((pid) => ({ pid, command: readText(`/proc/${pid}/cmdline`) }));
  return [...hostProcesses(cluster, node), ...inside].filter(
    ({ pid, command }) => MOVERS.test(programOf(pid)) || command.includes(FILLER),
  );
}

/** Anything on the host that should not be there once all is quiet, in words. */
export function leftovers(
  cluster: TestCluster,
  node: string,
  containerId: string,
  isHome: boolean,
): string[] {
  const { stateDir, dataDir, cgroupDirs, shimPid } = cluster.dev.node(node);
  const found: string[] = [];
  const state = `${stateDir}/containers/${containerId}`;
  const data = `${dataDir}/containers/${containerId}`;
  if (isHome) {
    for (const [folder, expected] of [
      [state, STATE_ENTRIES],
      [data, DATA_ENTRIES],
    ] as const)
      for (const entry of list(folder)) if (!expected.has(entry)) found.push(`${folder}/${entry}`);
  } else
    for (const folder of [state, data, `${stateDir}/runc/${containerId}`])
      if (exists(folder)) found.push(folder);

  const mounts = readText(`/proc/${shimPid()}/mountinfo`)
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.includes(containerId));
  const kept = isHome
    ? [...["root", "dev", "shm"].map((name) => `${state}/${name}`), `/run/netns/gwc-${containerId}`]
    : [];
  for (const path of mounts) if (!kept.includes(path)) found.push(`mount ${path}`);
  const doubled = mounts.filter((path, index) => mounts.indexOf(path) !== index);
  for (const path of doubled) found.push(`a second mount at ${path}`);

  if (!isHome) {
    if (exists(`/proc/${shimPid()}/root/run/netns/gwc-${containerId}`))
      found.push(`netns gwc-${containerId}`);
    const link = `gv${containerId.slice(0, 12)}`;
    if (readText(`/proc/${shimPid()}/net/dev`).includes(`${link}:`)) found.push(`network interface ${link}`);
    for (const folder of cgroupDirs)
      if (exists(`${folder}/godwit/${containerId}`)) found.push(`cgroup ${folder}/godwit/${containerId}`);
  }
  for (const { pid, command } of movers(cluster, node, containerId))
    found.push(`process ${pid} ${command.replaceAll("\0", " ").slice(0, 120)}`);
  return found.map((what) => `${node}: ${what}`);
}

/** How often the container's tasks have been on a processor: it rises while they run, and only then. */
export function switches(cluster: TestCluster, node: string, containerId: string): number {
  let sum = 0;
  for (const pid of cluster.processesOn(node, containerId)) {
    for (const task of list(`/proc/${pid}/task`)) {
      const status = readText(`/proc/${pid}/task/${task}/status`);
      for (const match of status.matchAll(/ctxt_switches:\s+(\d+)/g)) sum += Number(match[1]);
    }
  }
  return sum;
}

function programOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return ""; // it has ended
  }
}

const exists = (path: string): boolean => statSync(path, { throwIfNoEntry: false }) !== undefined;

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // gone meanwhile: it holds nothing
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // gone meanwhile
  }
}
