import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";

/**
 * Tells two machines that claim one node name apart: the same after a restart of the agent, another one after a restart
 * of the machine, and on a copy of the machine.
 */
export function incarnationOf(stateDir: string): string {
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  return `${readMachine(stateDir)}-${bootId.slice(0, 8)}`;
}

/** Made once on a machine, kept in its state folder. */
function readMachine(stateDir: string): string {
  const path = `${stateDir}/incarnation`;
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  const incarnation = randomBytes(8).toString("hex");
  writeFileSync(`${path}.new`, incarnation, { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return incarnation;
}
