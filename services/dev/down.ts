import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { processStat, signalExactly } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { announced, withdraw } from "./api.ts";
import { clusterGroup, killGroups, readHierarchies, removeGroups } from "./cgroups.ts";
import { deleteNetns, listNetns, processesInNetns } from "./ip.ts";
import { LAUNCHER } from "./launch.ts";
import { clusterKey, markerPath } from "./plan.ts";
import {
  bootId,
  canonicalDataDir,
  clusterGroups,
  type DevRecord,
  processLives,
  readRecord,
  writeRecord,
} from "./record.ts";
import { run } from "./run.ts";
import { waitFor } from "./wait.ts";

const GONE_TIMEOUT_MS = 10_000;

/**
 * Takes a cluster down and removes all that it has made, whatever state it is in; a cluster that is not there is
 * no error. It does not need its record for the parts whose names follow from the data folder.
 * @returns what was removed, a line for each kind
 */
/** Containers may have written a great many files. */
const ERASE_WITHIN_MS = 300_000;

export async function devDown(path: string): Promise<string[]> {
  const dataDir = canonicalDataDir(path);
  const key = clusterKey(dataDir);
  const record = readRecord(dataDir);
  const removed: string[] = [];
  const say = (count: number, what: string): void => {
    if (count > 0) removed.push(`${count} ${what}${count === 1 ? "" : what.endsWith("s") ? "es" : "s"}`);
  };
  if (record !== undefined) claim(record);

  const roots = new Set(record === undefined ? [] : clusterGroups(record));
  for (const hierarchy of readHierarchies()) roots.add(clusterGroup(hierarchy, key));
  const groups = [...roots].filter((group) => existsSync(group));
  const names = await listNetns(key);
  let killed = killRecorded(record) + killLaunching(record);
  killed += await killGroups(groups);
  for (const name of names) killed += await killInNetns(name);
  say(killed, "process");

  for (const name of names) await deleteNetns(name);
  say(names.length, "network namespace");
  say(await removeGroups(groups), "cgroup");
  say(await unmountBelow(dataDir), "mount");
  say(await detachLoopDevices(dataDir), "loop device");
  const api = announced();
  if (api?.startsWith(`unix:${join(dataDir, "run")}/`) === true && withdraw(api))
    removed.push("the API's announcement");
  if (record !== undefined) {
    await removeDataDir(dataDir);
    removed.push(dataDir);
  }
  return removed;
}

/** From here on a process that is just being started for this cluster gives up by itself. */
function claim(record: DevRecord): void {
  const { owner, state, dataDir } = record;
  if (owner !== null && owner.pid !== process.pid && processLives(record, owner)) {
    throw new GodwitError(
      "refused",
      `the cluster in ${dataDir} is being ${state === "stopping" ? "taken down" : "started"} by process ${owner.pid}; wait for it, or stop it first`,
    );
  }
  const startTicks = processStat(process.pid)?.startTicks ?? 0;
  writeRecord({
    ...record,
    state: "stopping",
    owner: { pid: process.pid, startTicks },
    bootId: bootId(),
    // Pids of before a restart of the machine mean others now.
    processes: record.bootId === bootId() ? record.processes : {},
  });
}

/** The shims first of all: they would start their agents again. */
function killRecorded(record: DevRecord | undefined): number {
  if (record === undefined || record.bootId !== bootId()) return 0;
  return Object.values(record.processes).filter(({ pid, startTicks }) =>
    signalExactly(pid, startTicks, "SIGKILL"),
  ).length;
}

/** Those that were started a moment ago, by an up that was killed: neither recorded nor in their groups yet. */
function killLaunching(record: DevRecord | undefined): number {
  if (record === undefined) return 0;
  const order = `"clusterId":"${record.clusterId}"`;
  return readdirSync("/proc").filter((name) => {
    const pid = Number(name);
    const stat = Number.isInteger(pid) ? processStat(pid) : undefined;
    return stat !== undefined && isLaunching(pid, order) && signalExactly(pid, stat.startTicks, "SIGKILL");
  }).length;
}

function isLaunching(pid: number, order: string): boolean {
  try {
    const [, program, argument] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    return program === LAUNCHER && argument !== undefined && argument.includes(order);
  } catch {
    return false; // ended meanwhile
  }
}

async function killInNetns(name: string): Promise<number> {
  const killed = new Set<number>();
  await waitFor(
    async () => {
      const pids = await processesInNetns(name);
      for (const pid of pids) {
        const stat = processStat(pid);
        if (stat !== undefined && signalExactly(pid, stat.startTicks, "SIGKILL")) killed.add(pid);
      }
      return pids.length === 0 ? true : undefined;
    },
    GONE_TIMEOUT_MS,
    () => `processes in the network namespace ${name} do not die; try again`,
  );
  return killed.size;
}

function mountsBelow(folder: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) =>
      (line.split(" ")[4] ?? "").replace(/\\(\d{3})/g, (_, octal: string) =>
        String.fromCharCode(parseInt(octal, 8)),
      ),
    )
    .filter((mountPoint) => mountPoint === folder || mountPoint.startsWith(`${folder}/`))
    .toReversed();
}

async function unmountBelow(dataDir: string): Promise<number> {
  const mounts = mountsBelow(dataDir);
  for (const mountPoint of mounts) {
    try {
      await run("umount", ["--", mountPoint]);
    } catch {
      await run("umount", ["--lazy", "--", mountPoint]); // in use from outside the cluster: gone when that ends
    }
  }
  return mounts.length;
}

function loopDevicesBelow(dataDir: string): string[] {
  return readdirSync("/sys/block")
    .filter((name) => name.startsWith("loop"))
    .filter((name) => {
      try {
        return readFileSync(`/sys/block/${name}/loop/backing_file`, "utf8").startsWith(`${dataDir}/`);
      } catch {
        return false; // not set up
      }
    });
}

async function detachLoopDevices(dataDir: string): Promise<number> {
  const found = new Set<string>();
  await waitFor(
    async () => {
      const devices = loopDevicesBelow(dataDir);
      for (const name of devices) {
        found.add(name);
        await run("losetup", ["--detach", `/dev/${name}`]).catch((error: unknown) => {
          // It went by itself: its last mount was a dead host's.
          if (loopDevicesBelow(dataDir).includes(name)) throw GodwitError.from(error);
        });
      }
      return devices.length === 0 ? true : undefined;
    },
    GONE_TIMEOUT_MS,
    () => `loop devices on files in ${dataDir} stay in use: ${loopDevicesBelow(dataDir).join(", ")}`,
  );
  return found.size;
}

/** Only a folder with a marker, never through a mount, and the marker last: a crash half-way can be gone on with. */
async function removeDataDir(dataDir: string): Promise<void> {
  const mounts = mountsBelow(dataDir);
  if (mounts.length > 0)
    throw new GodwitError("refused", `${mounts[0] ?? ""} is still mounted; nothing is deleted`);
  const marker = markerPath(dataDir);
  if (!existsSync(marker))
    throw new GodwitError("refused", `${dataDir} holds no dev.json; nothing is deleted`);
  const rest = readdirSync(dataDir)
    .map((name) => join(dataDir, name))
    .filter((path) => path !== marker);
  const erase = (...paths: string[]) =>
    run("rm", ["-rf", "--one-file-system", "--", ...paths], undefined, undefined, ERASE_WITHIN_MS);
  if (rest.length > 0) await erase(...rest);
  await erase(dataDir);
}
