import { readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";

import { isId } from "../../proto/contract/ids.ts";
import type { AgentConfig } from "../config.ts";
import { type ContainerRecord, decodeRecord, encodeRecord } from "../model/record.ts";
import { containerPaths } from "./paths.ts";

/**
 * Replaces the record in one step. Not synced to the disk: it has to outlive this process, not the machine,
 * whose end is the end of what the record describes.
 */
export function writeRecord(config: AgentConfig, record: ContainerRecord): void {
  const { record: path } = containerPaths(config, record.containerId);
  writeFileSync(`${path}.new`, encodeRecord(record), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Undefined when there is none: a folder without a record is a start that never got anywhere. */
export function readRecord(config: AgentConfig, containerId: string): ContainerRecord | undefined {
  try {
    return decodeRecord(readFileSync(containerPaths(config, containerId).record, "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Ids of all containers that have left anything on this host. */
export function listContainers(config: AgentConfig): string[] {
  const ids = new Set<string>();
  for (const folder of [`${config.stateDir}/containers`, `${config.dataDir}/containers`]) {
    try {
      for (const name of readdirSync(folder)) if (isId(name)) ids.add(name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return [...ids];
}
