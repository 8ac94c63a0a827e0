/**
 * Becomes a command inside a host: `node services/dev/enter.ts DATA NODE CMD…`. The pid, the terminal and the exit
 * code are the command's, since this process is replaced by it. Synchronous: namespaces are a thread's.
 */
import { replaceProcess } from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { joinGroup } from "./cgroups.ts";
import { enterNamespacesOf, namespaceHolder, ownGroups } from "./namespaces.ts";
import { lookUp } from "./programs.ts";
import { canonicalDataDir, readRecord } from "./record.ts";

/** As a shell tells it. */
const NOT_FOUND_EXIT = 127;
class CommandNotFound extends GodwitError {}

function enterHost(path: string, node: string, argv: readonly string[]): never {
  const dataDir = canonicalDataDir(path);
  const record = readRecord(dataDir);
  if (record === undefined) {
    throw new GodwitError(
      "not-found",
      `no cluster is in ${dataDir}; start one with 'godwit dev up --data ${dataDir}'`,
    );
  }
  const holder = namespaceHolder(record, node);
  const [program, ...args] = argv;
  if (program === undefined) throw new GodwitError("invalid", "there is no command to run");

  const workingDir = process.cwd();
  for (const group of ownGroups(record, node)) joinGroup(group);
  enterNamespacesOf(holder);
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
