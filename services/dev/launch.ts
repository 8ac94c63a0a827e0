import { spawn } from "node:child_process";
import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { isAlive, processStat } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import type { CgroupHierarchy } from "./cgroups.ts";
import { type ProcessRecord, updateRecord } from "./record.ts";

/** What services/dev/host.ts is to become. */
export interface LaunchOrder {
  readonly dataDir: string;
  readonly clusterId: string;
  readonly groups: readonly string[];
  readonly place: Place;
  readonly argv: readonly string[];
  readonly environment: { readonly [name: string]: string };
}
/** Where a process of the cluster runs. */
export type Place =
  /** Beside the hosts: nothing but the network is its own. */
  | { readonly kind: "control"; readonly netnsPath: string }
  /** A host that begins: it gets mount, UTS and cgroup namespaces of its own. */
  | ({ readonly kind: "host"; readonly netnsPath: string } & HostOrder)
  /** A host that is there: in the namespaces of one of its processes. */
  | { readonly kind: "inside"; readonly pid: number };
export interface HostOrder {
  readonly name: string;
  readonly hierarchies: readonly CgroupHierarchy[];
}

export interface Launched {
  readonly process: ProcessRecord;
  /** What it has written since this start. */
  log(): string;
  lives(): boolean;
}

/** The program that becomes all others of a cluster; its one argument is a LaunchOrder. */
export const LAUNCHER = join(import.meta.dirname, "host.ts");

const prefix = process.env["GODWIT_PREFIX"] ?? "/opt/godwit";
const toolsDir = join(prefix, "tools/bin");
/** Programs that come from it start in a third of the time, and need no compiler of TypeScript in their memory. */
const codeCache = join(prefix, "cache/node");
/** Programs that setup.sh has installed come first; daemons get nothing else of the caller's environment. */
export function daemonEnvironment(): { [name: string]: string } {
  const path = [toolsDir, process.env["PATH"] ?? "/usr/bin:/bin", "/usr/sbin", "/sbin"].join(":");
  const kept = ["GODWIT_PREFIX", "HOME", "LANG", "TZ"].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return { PATH: path, NODE_COMPILE_CACHE: codeCache, ...Object.fromEntries(kept) };
}

/** Starts a process of the cluster, its output in `logPath`, and records it under `name`. */
export function launch(name: string, logPath: string, order: LaunchOrder): Launched {
  const log = openSync(logPath, "a", 0o600);
  const logStart = fstatSync(log).size;
  let child;
  try {
    // A session of its own: Ctrl-C at the terminal of `dev up` is not meant for it.
    child = spawn(process.execPath, [LAUNCHER, JSON.stringify(order)], {
      stdio: ["ignore", log, log],
      detached: true,
      cwd: "/",
    });
  } finally {
    closeSync(log);
  }
  child.on("error", () => undefined); // no pid then: said below
  child.unref();
  const { pid } = child;
  const stat = pid === undefined ? undefined : processStat(pid);
  if (pid === undefined || stat === undefined) throw new GodwitError("internal", `${name} cannot be started`);
  const recorded = { pid, startTicks: stat.startTicks };
  updateRecord(order.dataDir, (record) => ({
    ...record,
    processes: { ...record.processes, [name]: recorded },
  }));
  return {
    process: recorded,
    log: () => readFileSync(logPath).subarray(logStart).toString(),
    lives: () => isAlive(pid, recorded.startTicks),
  };
}

/** What a log says last about an error, or else its last lines; for an error's message. */
export function lastWords(log: string): string {
  const lines = log.trim().split("\n");
  const telling = lines.filter(
    (line) => /\b(error|fatal|cannot|failed)\b/i.test(line) && !/^\s+at /.test(line),
  );
  const words = (telling.length > 0 ? telling.slice(-1) : lines.slice(-2)).join(" | ").trim();
  return words === "" ? "it wrote nothing" : `its last words: ${words.slice(0, 500)}`;
}
