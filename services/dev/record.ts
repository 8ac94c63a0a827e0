import { linkSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";

import { isAlive } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { type CgroupHierarchy, clusterGroup } from "./cgroups.ts";
import { clusterKey, markerPath } from "./plan.ts";

/** One process for good: a pid is used again, a pid with its start time is not. */
export interface ProcessRecord {
  readonly pid: number;
  readonly startTicks: number;
}

/**
 * <data>/dev.json: what there is of a cluster. It is written before anything is made, so that whatever a crash
 * leaves can be found; and only a folder that holds it is ever removed.
 */
export interface DevRecord {
  readonly version: 1;
  /** Random: a process that was started for a former cluster of this folder knows that it is not meant. */
  readonly clusterId: string;
  /** After a boot no process and no namespace of before is left, and pids mean others. */
  readonly bootId: string;
  readonly dataDir: string;
  readonly state: "starting" | "up" | "stopping";
  readonly nodeCount: number;
  /** Absent: 1. */
  readonly schedulerCount?: number;
  /** Who starts or stops it right now. */
  readonly owner: ProcessRecord | null;
  /** As they were when it was started: whoever continues may be in other cgroups. */
  readonly hierarchies: readonly CgroupHierarchy[];
  /** Hosts by name (the process is the host's shim), "nats" and "api", or "nats1" and so on. */
  readonly processes: { readonly [name: string]: ProcessRecord };
  /** Other programs in place of services/api/main.ts and agent/main.ts; for tests. */
  readonly apiMain?: string;
  readonly agentMain?: string;
}

export const bootId = (): string => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();

/** The one spelling of a folder that may not exist yet: absolute, symbolic links resolved. */
export function canonicalDataDir(path: string): string {
  const absolute = resolve(path);
  const missing: string[] = [];
  for (let at = absolute; ; at = dirname(at)) {
    try {
      return join(realpathSync(at), ...missing);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || at === dirname(at))
        throw GodwitError.from(error);
      missing.unshift(basename(at));
    }
  }
}

export function readRecord(dataDir: string): DevRecord | undefined {
  const path = markerPath(dataDir);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw GodwitError.from(error);
  }
  try {
    const record = JSON.parse(text) as DevRecord;
    if (record.version === 1 && record.dataDir === dataDir) return record;
  } catch (cause) {
    throw new GodwitError("corrupt", `${path} is no JSON; remove ${dataDir} by hand if it is not needed`, {
      cause,
    });
  }
  throw new GodwitError("refused", `${path} does not describe a cluster in ${dataDir}; nothing is touched`);
}

/** Fails with "exists" when there is one already, also when two try at the same moment. */
export function createRecord(record: DevRecord): void {
  mkdirSync(record.dataDir, { recursive: true, mode: 0o700 });
  const path = markerPath(record.dataDir);
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  try {
    linkSync(draft, path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw GodwitError.from(cause);
    throw new GodwitError("exists", `${record.dataDir} has just been taken by another 'godwit dev up'`, {
      cause,
    });
  } finally {
    rmSync(draft);
  }
}

export function writeRecord(record: DevRecord): void {
  const path = markerPath(record.dataDir);
  writeFileSync(`${path}.new`, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Reads, changes and writes the record. */
export function updateRecord(dataDir: string, change: (record: DevRecord) => DevRecord): DevRecord {
  const record = readRecord(dataDir);
  if (record === undefined) throw new GodwitError("not-found", `${dataDir} holds no cluster (any more)`);
  const changed = change(record);
  writeRecord(changed);
  return changed;
}

/** The cluster's own group in each hierarchy; below it, "ctl" and one for each host. */
export const clusterGroups = (record: DevRecord): string[] =>
  record.hierarchies.map((hierarchy) => clusterGroup(hierarchy, clusterKey(record.dataDir)));

export function processLives(record: DevRecord, recorded: ProcessRecord | undefined): boolean {
  return recorded !== undefined && record.bootId === bootId() && isAlive(recorded.pid, recorded.startTicks);
}
