/**
 * Becomes a command inside a host: `node services/dev/enter.ts DATA NODE CMD…`. The pid, the terminal and the exit
 * code are the command's, since this process is replaced by it. Synchronous: namespaces are a thread's.
 */
import { openSync } from "node:fs";
import { join } from "node:path";

import { enterNamespace, Namespace, replaceProcess, unshare } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { isPureV2, joinGroup } from "./cgroups.ts";
import { lookUp } from "./programs.ts";
import { canonicalDataDir, clusterGroups, processLives, readRecord } from "./record.ts";
import { OWN_GROUP } from "./launch.ts";

/** As a shell tells it. */
const NOT_FOUND_EXIT = 127;
class CommandNotFound extends GodwitError {}

export function enterHost(path: string, node: string, argv: readonly string[]): never {
  const dataDir = canonicalDataDir(path);
  const record = readRecord(dataDir);
  if (record === undefined) {
    throw new GodwitError(
      "not-found",
      `no cluster is in ${dataDir}; start one with 'godwit dev up --data ${dataDir}'`,
    );
  }
  const shim = record.processes[node];
  if (!/^n\d+$/.test(node) || shim === undefined) {
    throw new GodwitError("not-found", `no host is called '${node}'; there are n1 to n${record.nodeCount}`);
  }
  if (!processLives(record, shim)) throw new GodwitError("unavailable", `host ${node} is not running`);
  const [program, ...args] = argv;
  if (program === undefined) throw new GodwitError("invalid", "there is no command to run");

  const workingDir = process.cwd();
  const namespaces = (["net", "uts", "cgroup", "mnt"] as const).map((name) =>
    openSync(`/proc/${shim.pid}/ns/${name}`, "r"),
  );
  for (const group of clusterGroups(record)) {
    joinGroup(isPureV2(record.hierarchies) ? join(group, node, OWN_GROUP) : join(group, node));
  }
  unshare(Namespace.fileSystemState); // a thread that shares them may not change its mount namespace
  for (const [i, kind] of [Namespace.network, Namespace.uts, Namespace.cgroup, Namespace.mount].entries()) {
    enterNamespace(namespaces[i] ?? -1, kind);
  }
  try {
    process.chdir(workingDir);
  } catch {
    process.chdir("/"); // it was below the machine's /run, which a host does not see
  }
  const resolved = lookUp(program, process.env["PATH"] ?? "/usr/bin:/bin");
  if (resolved === undefined) throw new CommandNotFound("not-found", `${program}: not found on host ${node}`);
  return replaceProcess(resolved, [program, ...args], process.env);
}

/** Runs it and says on one line what is wrong. */
export function enterHostOrExit(path: string, node: string, argv: readonly string[]): never {
  try {
    return enterHost(path, node, argv);
  } catch (error) {
    process.stderr.write(`godwit dev exec: ${GodwitError.from(error).message}\n`);
    process.exit(error instanceof CommandNotFound ? NOT_FOUND_EXIT : 1);
  }
}

if (process.argv[1] === import.meta.filename) {
  const [dataDir = "", node = "", ...argv] = process.argv.slice(2);
  enterHostOrExit(dataDir, node, argv);
}
