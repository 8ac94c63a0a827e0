/** What can become of a whole host: no room on its disk, no memory, gone for good. */
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

import { netnsPrefix } from "../../services/dev/plan.ts";
import { type TestCluster, until } from "../e2e/cluster.ts";
import { signal } from "./faults.ts";
import { switches } from "./host-view.ts";
import { CONTAINER, type Laboratory } from "./laboratory.ts";
import type { WholeMoveFault } from "./rows.ts";
import { heldAt, type Outcome } from "./held-at.ts";

const run = promisify(execFile);
const DISK = "1m";
/** For all that a move needs beside what the host uses now. */
const SPARE_BYTES = 4 * 1024 * 1024;

/** Containers' data on this host has hardly any room. */
export async function fillDisk(laboratory: Laboratory, node: string): Promise<AsyncDisposable> {
  const { dev } = laboratory.cluster;
  const folder = `${dev.node(node).dataDir}/containers`;
  const inHost = async (...argv: string[]): Promise<void> => {
    const { code, stderr } = await dev.run(node, argv);
    if (code !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
  };
  await inHost("mkdir", "-p", folder);
  await inHost("mount", "-t", "tmpfs", "-o", `size=${DISK}`, "full", folder);
  let isFull = true;
  return {
    [Symbol.asyncDispose]: async () => {
      if (!isFull) return;
      isFull = false;
      await inHost("umount", "--lazy", folder);
    },
  };
}

/** Whatever more the host's processes take now, the kernel kills one for. */
export function squeezeMemory(laboratory: Laboratory, node: string): AsyncDisposable {
  const folder = laboratory.cluster.dev
    .node(node)
    .cgroupDirs.find(
      (one) => existsSync(join(one, "memory.limit_in_bytes")) || existsSync(join(one, "memory.max")),
    );
  if (folder === undefined) throw new Error("this machine has no memory cgroups");
  const isV1 = existsSync(join(folder, "memory.limit_in_bytes"));
  const limit = join(folder, isV1 ? "memory.limit_in_bytes" : "memory.max");
  const stat = readFileSync(join(folder, "memory.stat"), "utf8");
  const figure = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(stat)?.[1] ?? 0);
  // The page cache gives way.
  const usedBytes = isV1 ? figure("total_rss") + figure("total_shmem") : figure("anon") + figure("shmem");
  writeLowest(limit, usedBytes + SPARE_BYTES);
  return {
    [Symbol.asyncDispose]: async () => {
      writeFileSync(limit, isV1 ? "-1" : "max");
      // A shim that was killed is started again by whatever starts the host's services.
      await laboratory.cluster.dev.startDead();
    },
  };
}

/** The kernel refuses a limit below what it cannot take back at once. */
function writeLowest(file: string, bytes: number): void {
  for (let attempt = 0; ; attempt += 1) {
    try {
      writeFileSync(file, String(bytes + attempt * SPARE_BYTES));
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EBUSY" || attempt === 10) throw error;
    }
  }
}

/** Pulls the host's plug: its processes die at once, and nothing is heard of it any more. */
export async function vanish({ dev }: TestCluster, node: string, containerId: string): Promise<void> {
  const { netns, cgroupDirs } = dev.node(node);
  const control = `${netns.slice(0, netnsPrefix("").length + 6)}ctl`;
  await run("ip", ["-netns", control, "link", "set", `to-${node}`, "down"]);
  const [folder = ""] = cgroupDirs;
  // The shim first: it would start another agent.
  signal(dev.node(node).shimPid(), "SIGKILL");
  await until(`${node} to be dead`, () => {
    const pids = pidsBelow(folder);
    for (const pid of pids) signal(pid, "SIGKILL");
    thawDead(cgroupDirs, containerId);
    return pids.length === 0;
  });
}

/** On v1 a frozen task takes its SIGKILL when it is thawed, and dies before its next instruction. */
function thawDead(cgroupDirs: readonly string[], containerId: string): void {
  for (const one of cgroupDirs)
    for (const group of ["godwit", join("godwit", containerId)]) {
      const freezer = join(one, group, "freezer.state");
      if (existsSync(freezer)) writeFileSync(freezer, "THAWED");
    }
}

/** The container's frozen processes on the host die, as when it has no memory left. */
export async function endFrozen(cluster: TestCluster, node: string, containerId: string): Promise<void> {
  await until("the frozen processes to be dead", () => {
    const pids = cluster.processesOn(node, containerId);
    for (const pid of pids) signal(pid, "SIGKILL");
    thawDead(cluster.dev.node(node).cgroupDirs, containerId);
    return pids.length === 0;
  });
}

/** Only somebody's word that the host is off gives the container back, and with it to whom it still is frozen. */
async function removeLost(
  laboratory: Laboratory,
  { victim, survivor, record }: { victim: string; survivor: string; record: string },
): Promise<Outcome> {
  const { cluster } = laboratory;
  const why = await cluster.must("why", CONTAINER);
  if (!why.includes("may run there unseen")) throw new Error(`why does not say it: ${why}`);
  const unsure = await cluster.cli(["node", "rm", victim]);
  if (unsure.code !== REFUSED) throw new Error(`node rm without a word that it is off: ${unsure.stderr}`);
  if (cluster.runningOn(laboratory.containerId).length > 0) throw new Error("a copy runs");
  await cluster.must("node", "rm", "--is-off", victim);
  await laboratory.checkUnharmed(survivor, [victim]);
  return { outcome: "ended", words: `${record} · "node rm --is-off ${victim}": it goes on at ${survivor}` };
}

/** The command's exit code for a safety rule's no. */
const REFUSED = 3;

function pidsBelow(folder: string): number[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory()) return pidsBelow(join(folder, entry.name));
    if (entry.name !== "cgroup.procs") return [];
    return readFileSync(join(folder, entry.name), "utf8").split("\n").filter(Boolean).map(Number);
  });
}

export async function loseHost(
  laboratory: Laboratory,
  fault: WholeMoveFault,
  source: string,
  target: string,
): Promise<Outcome> {
  const victim = fault.startsWith("source") ? source : target;
  const survivor = victim === source ? target : source;
  const isSwitched = fault.endsWith("after the switch");
  const side = isSwitched ? target : source;
  const point = isSwitched ? "criu network-unlock" : "status frozen:maybe";
  return await heldAt(laboratory, side, point, "before", async (held) => {
    const id = await laboratory.startMove(target);
    const pid = await held();
    laboratory.isSpent = true;
    await vanish(laboratory.cluster, victim, laboratory.containerId);
    signal(pid, "SIGCONT");
    await until("the cluster to miss the host", async () => {
      const nodes = await laboratory.cluster.nodes();
      return nodes.find(({ name }) => name === victim)?.state === "lost";
    });
    // Whoever owns the container and is there goes on; where its owner is lost, nobody else has it.
    if ((victim === target) !== isSwitched) {
      const { state, error } = await laboratory.ended(id);
      if ((state === "finished") !== isSwitched) throw new Error(`the migration has ${state}`);
      await laboratory.checkUnharmed(survivor, [victim]);
      return { outcome: isSwitched ? "moved" : "stayed", words: error };
    }
    const before = switches(laboratory.cluster, survivor, laboratory.containerId);
    const record = await until("a record of why it runs nowhere", async () => {
      const row = await laboratory.container();
      return row.state === "running" ? undefined : `${row.state} on ${row.node}`;
    });
    if (switches(laboratory.cluster, survivor, laboratory.containerId) !== before)
      throw new Error(`${survivor} runs a copy of what belongs to ${victim}`);
    const told = (await laboratory.migration(id))?.error ?? "";
    if (!isSwitched && told !== "") return { outcome: "ended", words: `${record}: ${told}` };
    if (!/may run there unseen.*node rm --is-off/.test(told)) throw new Error(`nothing says why: ${told}`);
    return await removeLost(laboratory, { victim, survivor, record: `${record}: ${told}` });
  });
}
