import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";

/**
 * Tells two machines that claim one node name apart: made once on a machine, kept in its state folder, the same
 * after a restart of the agent.
 */
export function readIncarnation(stateDir: string): string {
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
