/**
 * The shim: the small, long-lived parent of a host's agent and containers.
 *
 *   node [--max-old-space-size=32 --max-semi-space-size=1] agent/shim/main.ts --config FILE [--agent PROGRAM.ts]
 *
 * It keeps an agent running, takes in orphans (the containers, whose runc or criu has ended), records how they
 * end, and reads their output into their logs, so that the death of an agent is nothing to a container. SIGTERM
 * ends the agent and the shim and leaves the containers alone. See protocol.ts for what it answers.
 *
 * When the shim itself is killed, the agent goes on, holds read ends of the pipes of its own so that no container
 * meets SIGPIPE, and attaches them to the next shim (through /proc/INIT/fd/1 where it has none); more is not
 * offered: how a container ended in between is not known (UNKNOWN_EXIT_CODE).
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { GodwitError } from "../../proto/contract/error.ts";
import { becomeSubreaper } from "../native/process.ts";
import { AgentChild } from "./agent-child.ts";
import { AGENT_FLAGS } from "./agent-flags.ts";
import { ContainerTable } from "./container-table.ts";
import { leaveToSuccessor, takeFromPredecessor } from "./handover.ts";
import { SHIM_SOCKET } from "./protocol.ts";
import { ShimServer } from "./server.ts";

const SWEEP_MS = 1_000;
/** sockaddr_un holds 108 bytes with the closing NUL. */
const SOCKET_PATH_BYTES = 107;

const log = (message: string): void =>
  void process.stderr.write(`${new Date().toISOString()} shim: ${message}\n`);

function readStateDir(configPath: string): string {
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(configPath, "utf8"));
  } catch (cause) {
    throw new GodwitError("invalid", `${configPath} cannot be read: ${(cause as Error).message}`, { cause });
  }
  const stateDir: unknown =
    typeof config === "object" && config !== null ? Reflect.get(config, "stateDir") : undefined;
  if (typeof stateDir !== "string" || !stateDir.startsWith("/")) {
    throw new GodwitError("invalid", `${configPath}: stateDir must be an absolute path`);
  }
  if (Buffer.byteLength(join(stateDir, SHIM_SOCKET)) > SOCKET_PATH_BYTES) {
    throw new GodwitError(
      "invalid",
      `${configPath}: stateDir is too long for a socket in it; choose a shorter path`,
    );
  }
  return stateDir;
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: "string" }, agent: { type: "string" } } });
  if (values.config === undefined) throw new GodwitError("invalid", "--config FILE is missing");
  const stateDir = readStateDir(values.config);
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  becomeSubreaper();

  const ownChildren = new Set<number>();
  const table: ContainerTable = new ContainerTable(ownChildren, (event) => server.publish(event));
  const server = new ShimServer(table);
  const agent = new AgentChild(
    {
      program: process.execPath,
      args: [
        ...AGENT_FLAGS,
        values.agent ?? join(import.meta.dirname, "../main.ts"),
        "--config",
        values.config,
      ],
      recordPath: join(stateDir, "agent.json"),
      onLog: log,
    },
    ownChildren,
  );
  const handoverPath = join(stateDir, "handover.json");

  const stopped = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stopped.resolve(signal));
  process.on("SIGHUP", () => undefined); // a terminal that closes is no reason to stop
  process.on("SIGCHLD", () => table.reap());

  await server.listen(join(stateDir, SHIM_SOCKET));
  takeFromPredecessor(table, handoverPath, log);
  table.reap();
  const sweep = setInterval(() => table.sweep(), SWEEP_MS);
  agent.start();
  log(`running as ${process.pid}`);

  const signal = await stopped.promise;
  log(`stopping on ${signal}; the containers stay`);
  await agent.stop();
  clearInterval(sweep);
  leaveToSuccessor(table, handoverPath);
  server[Symbol.dispose]();
  table[Symbol.dispose]();
  process.exit(0);
}

main().catch((error: unknown) => {
  log(GodwitError.from(error).message);
  process.exit(1);
});
