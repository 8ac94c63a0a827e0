import { spawn } from "node:child_process";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";

import { isAlive, processStat, signalExactly } from "../native/process.ts";
import type { ContainerTable, HandedOver } from "./container-table.ts";

/**
 * Between a shim that was told to stop and the next one (an upgrade), somebody must hold the containers' pipes:
 * a container that writes into a pipe without a reader is killed by SIGPIPE. A `sleep` does: it inherits the read
 * ends and reads nothing, so that writers wait at worst. Its pid and what belongs to each descriptor are in a
 * file. A shim that is killed has no time for this; the agent's own read ends bridge that.
 */
interface Handover {
  readonly holder: { readonly pid: number; readonly startTicks: number };
  readonly containers: readonly HandedOver[];
}
const FIRST_DESCRIPTOR = 3;

export function leaveToSuccessor(table: ContainerTable, path: string): void {
  const inherited: number[] = [];
  const renumber = (descriptor: number | undefined): number | undefined =>
    descriptor === undefined ? undefined : FIRST_DESCRIPTOR + inherited.push(descriptor) - 1;
  const containers = table.handOver().map((container) => ({
    ...container,
    descriptors: { o: renumber(container.descriptors.o), e: renumber(container.descriptors.e) },
  }));
  if (containers.length === 0) return;
  let holder = { pid: 0, startTicks: 0 };
  if (inherited.length > 0) {
    const child = spawn("sleep", ["infinity"], {
      detached: true,
      stdio: ["ignore", "ignore", "ignore", ...inherited],
    });
    child.unref();
    child.on("error", (error) =>
      process.stderr.write(`shim: no process holds the pipes: ${error.message}\n`),
    );
    holder = { pid: child.pid ?? 0, startTicks: processStat(child.pid ?? 0)?.startTicks ?? 0 };
  }
  const handover: Handover = { holder, containers };
  writeFileSync(`${path}.new`, JSON.stringify(handover), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Goes on where a predecessor has stopped. What cannot be taken over is left to the agent, and said. */
export function takeFromPredecessor(
  table: ContainerTable,
  path: string,
  onLog: (message: string) => void,
): void {
  let handover: Handover;
  try {
    handover = JSON.parse(readFileSync(path, "utf8")) as Handover;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    onLog(`the predecessor's containers are left to the agent: ${(error as Error).message}`);
    rmSync(path, { force: true });
    return;
  }
  const { holder, containers } = handover;
  const held = isAlive(holder.pid, holder.startTicks);
  const descriptorPath = (descriptor: number | undefined): string =>
    held && descriptor !== undefined ? `/proc/${holder.pid}/fd/${descriptor}` : "";
  for (const { container, dir, initPid, startTicks, descriptors, partial } of containers) {
    try {
      const paths = { stdout: descriptorPath(descriptors.o), stderr: descriptorPath(descriptors.e) };
      table.attach({ container, dir, initPid, startTicks, partial, ...paths });
    } catch (error) {
      onLog(`container ${container} is left to the agent: ${(error as Error).message}`);
    }
  }
  signalExactly(holder.pid, holder.startTicks, "SIGKILL");
  rmSync(path, { force: true });
}
